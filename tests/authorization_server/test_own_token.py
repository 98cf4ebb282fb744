"""Own tokens that come back: everything about them is checked, though nobody else could have signed them."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.authorization_server.own_token import verify_refresh_token, verify_revocable_token
from zeta_guard.errors import ZetaError
from zeta_guard.jose.jws import KeySigner, sign_jws

NOW = 1_800_000_000.0
ISSUER = "https://guard.example.de"
OWN = KeySigner(ec.generate_private_key(ec.SECP256R1()))
FOREIGN = KeySigner(ec.generate_private_key(ec.SECP256R1()))
KEYS = {OWN.kid: OWN.key.public_key()}


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
    own = verify_refresh_token(token(), issuer=ISSUER, keys=KEYS, now=NOW, max_bytes=4096)
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
        verify_refresh_token(wrong, issuer=ISSUER, keys=KEYS, now=NOW, max_bytes=4096)
    assert (caught.value.code, caught.value.status) == ("invalid_grant", 400)


def test_it_lives_to_the_last_second() -> None:
    verify_refresh_token(token(), issuer=ISSUER, keys=KEYS, now=NOW + 59.9, max_bytes=4096)
    with pytest.raises(ZetaError, match="expired"):
        verify_refresh_token(token(), issuer=ISSUER, keys=KEYS, now=NOW + 60, max_bytes=4096)


def test_a_token_under_the_kid_of_another_key_is_refused() -> None:
    keys = {OWN.kid: FOREIGN.key.public_key()}
    with pytest.raises(ZetaError, match="signature"):
        verify_refresh_token(token(), issuer=ISSUER, keys=keys, now=NOW, max_bytes=4096)
