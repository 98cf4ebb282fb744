"""The kept answer of a refresh: opened by the token that it was made for, and by nothing else."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from zeta_guard.authorization_server.successor import open_answer, seal_answer
from zeta_guard.errors import ZetaError
from zeta_guard.jose.sealing import Sealer

TOKEN = "eyJ0eXAiOiJyZWZyZXNoK2p3dCJ9.e30.c2lnbmF0dXJl"
BODY = b'{"access_token":"a"}'


def test_the_answer_opens_with_its_own_token_in_its_own_session_only() -> None:
    sealed = seal_answer(TOKEN, BODY, session_id="s")
    assert open_answer(TOKEN, sealed, session_id="s") == BODY
    for token, session in ((TOKEN + "A", "s"), (TOKEN, "t")):
        with pytest.raises(ZetaError) as caught:
            open_answer(token, sealed, session_id=session)
        assert caught.value.code == "invalid_grant"


def test_its_key_is_that_of_rfc_5869() -> None:
    purpose = b"zeta-guard successor of a refresh token"
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose).derive(TOKEN.encode())
    assert Sealer((key,)).open(seal_answer(TOKEN, BODY, session_id="s"), b"s") == BODY
