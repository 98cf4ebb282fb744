"""Own tokens that come back: everything about them is checked, though nobody else could have signed them."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.authorization_server.own_token import (
    OwnToken,
    named_session,
    parse_refresh_token,
    verify_refresh_token,
    verify_revocable_token,
)
from zeta_guard.errors import ZetaError
from zeta_guard.jose.jws import KeySigner, sign_jws

NOW = 1_800_000_000.0
ISSUER = "https://guard.example.de"
OWN = KeySigner(ec.generate_private_key(ec.SECP256R1()))
FOREIGN = KeySigner(ec.generate_private_key(ec.SECP256R1()))
KEYS = {OWN.kid: OWN.key.public_key()}


def refresh_token(text: str, *, issuer: str, keys: Any, now: float, max_bytes: int) -> OwnToken:
    return verify_refresh_token(parse_refresh_token(text, max_bytes=max_bytes), issuer=issuer, keys=keys, now=now)


def token(typ: str = "refresh+jwt", signer: KeySigner = OWN, **changes: Any) -> str:
    claims = {
        "iss": ISSUER,
        "aud": ISSUER,
        "sub": "1-example",
        "client_id": "zc_1",
        "sid": "s",
        "jti": "j",
        "iat": int(NOW),
        "exp": int(NOW) + 60,
        "cnf": {"jkt": "k"},
        **changes,
    }
    return sign_jws({"typ": typ}, {name: value for name, value in claims.items() if value is not ...}, signer)


def test_an_own_refresh_token_holds() -> None:
    own = refresh_token(token(), issuer=ISSUER, keys=KEYS, now=NOW, max_bytes=4096)
    assert (own.client_id, own.session_id, own.jti, own.jkt, own.expires_at) == ("zc_1", "s", "j", "k", int(NOW) + 60)


def test_both_kinds_can_be_revoked() -> None:
    for typ in ("refresh+jwt", "at+jwt"):
        verify_revocable_token(token(typ, aud="https://resource/"), issuer=ISSUER, keys=KEYS, now=NOW, max_bytes=4096)


@pytest.mark.parametrize(
    "wrong",
    [
        token("at+jwt"),
        token("JWT"),
        token(signer=FOREIGN),
        token(aud="https://resource/"),
        token(aud=[ISSUER, "https://resource/"]),
        token(aud=...),
        token(iss="https://other.example"),
        token(iss=...),
        token(exp=int(NOW)),
        token(exp=...),
        token(exp="never"),
        token(client_id=...),
        token(sid=...),
        token(jti=5),
        token(cnf=...),
        token(cnf={}),
        token(cnf={"jkt": None}),
        token(filler="x" * 4096),
    ],
)
def test_everything_else_is_an_invalid_grant(wrong: str) -> None:
    with pytest.raises(ZetaError) as caught:
        refresh_token(wrong, issuer=ISSUER, keys=KEYS, now=NOW, max_bytes=4096)
    assert (caught.value.code, caught.value.status) == ("invalid_grant", 400)


def test_it_lives_to_the_last_second() -> None:
    refresh_token(token(), issuer=ISSUER, keys=KEYS, now=NOW + 59.9, max_bytes=4096)
    with pytest.raises(ZetaError, match="expired"):
        refresh_token(token(), issuer=ISSUER, keys=KEYS, now=NOW + 60, max_bytes=4096)


def test_a_token_under_the_kid_of_another_key_is_refused() -> None:
    keys = {OWN.kid: FOREIGN.key.public_key()}
    with pytest.raises(ZetaError, match="signature"):
        refresh_token(token(), issuer=ISSUER, keys=keys, now=NOW, max_bytes=4096)


def test_the_session_that_a_token_names_can_be_read_ahead_when_it_is_a_name() -> None:
    def named(**changes: Any) -> str | None:
        return named_session(parse_refresh_token(token(**changes), max_bytes=4096))

    assert named() == "s"
    assert named(sid="x" * 64) == "x" * 64
    assert [named(sid=wrong) for wrong in ("x" * 65, "", 5, None, ["s"])] == [None] * 5
    assert named(sid=...) is None
