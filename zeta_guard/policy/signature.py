"""Who vouches for a bundle: ``.signatures.json`` in OPA's format, checked more strictly than OPA does.

Every file but the signatures themselves is listed and hashed; what is unlisted or missing is refused. All configured keys must
have signed, each with ES256 and its own key id; a signature with an unknown key id is refused, never ignored
(``security`` section 6).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from zeta_guard.errors import ConfigurationError
from zeta_guard.policy.bundle import MANIFEST, SIGNATURES, Bundle, BundleError

_ALGORITHM: Final = "ES256"
_HASHES: Final = {"SHA-256": hashlib.sha256, "SHA-384": hashlib.sha384, "SHA-512": hashlib.sha512}


def load_verification_keys(files: Mapping[str, Path], where: str) -> dict[str, ec.EllipticCurvePublicKey]:
    """PEM public keys (P-256) by key id. Raises ConfigurationError with ``where`` as the path."""
    keys: dict[str, ec.EllipticCurvePublicKey] = {}
    for key_id, file in files.items():
        path = f"{where}.{key_id}"
        try:
            key = load_pem_public_key(file.read_bytes())
        except (OSError, ValueError, UnsupportedAlgorithm):
            raise ConfigurationError(path, str(file), "a PEM public key", "Check the path and the file.") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigurationError(path, f"{file}: another kind of key", "an EC key on P-256 (ES256)")
        keys[key_id] = key
    return keys


def load_signing_key(file: Path) -> ec.EllipticCurvePrivateKey:
    """A PEM private key on P-256 without password. Raises ConfigurationError."""
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(
            "--sign",
            str(file),
            "a PEM private key without password",
            "Make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out policy-key.pem",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError("--sign", f"{file}: another kind of key", "an EC key on P-256 (ES256)")
    return key


def file_hash(name: str, content: bytes, algorithm: str = "SHA-256") -> str:
    """OPA's hash of a file: data and manifest by their JSON value, so that white space does not count, all else by bytes."""
    digest = _HASHES[algorithm]()
    base = PurePosixPath(name).name
    if base in ("data.json", MANIFEST):
        try:
            # Numbers stay as they are written: OPA hashes the literal.
            value = json.loads(content, parse_int=_Number, parse_float=_Number, parse_constant=_no_number)
            digest.update("".join(_walk(value)).encode())
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{name}: is no JSON, or holds half a character") from error
    else:
        digest.update(content)
    return digest.hexdigest()


class _Number(str):
    __slots__ = ()


def _no_number(text: str) -> Any:
    raise ValueError(text)


def _walk(value: object) -> list[str]:
    if isinstance(value, dict):
        members = [
            f"{_text(name)}:{''.join(_walk(value[name]))}" for name in sorted(value, key=lambda name: name.encode())
        ]
        return ["{", ",".join(members), "}"]
    if isinstance(value, list):
        return ["[", ",".join("".join(_walk(member)) for member in value), "]"]
    if isinstance(value, _Number):
        return [str(value)]
    if isinstance(value, str):
        return [_text(value)]
    return [json.dumps(value)]


def _text(value: str) -> str:
    # Go's encoder, unlike Python's, escapes these two separators.
    return json.dumps(value, ensure_ascii=False).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def sign(
    files: Mapping[str, bytes], signers: Sequence[tuple[str, ec.EllipticCurvePrivateKey]], *, scope: str = ""
) -> bytes:
    """``.signatures.json`` for ``files``; with one signer OPA verifies it as well. The file order is by name."""
    listed = [
        {"name": name, "hash": file_hash(name, files[name]), "algorithm": "SHA-256"}
        for name in sorted(files)
        if name != SIGNATURES
    ]
    tokens = []
    for key_id, key in signers:
        claims: dict[str, Any] = {"files": listed, "keyid": key_id}
        if scope:
            claims["scope"] = scope
        tokens.append(jwt.encode(claims, key, algorithm=_ALGORITHM, headers={"kid": key_id}))
    return (json.dumps({"signatures": tokens}) + "\n").encode()


def verify(bundle: Bundle, keys: Mapping[str, ec.EllipticCurvePublicKey], *, scope: str = "") -> tuple[str, ...]:
    """Key ids that have signed: all of ``keys``, in order. Raises BundleError that says which rule is broken."""
    if not keys:
        raise BundleError("no verification key is configured", "Name the publisher's keys in verification_keys.")
    signed_by: list[str] = []
    for token in _tokens(bundle):
        key_id, claims = _verified(token, keys)
        if key_id in signed_by:
            raise BundleError(f"{SIGNATURES}: key id {key_id!r} has signed twice")
        if claims.get("scope", "") != scope:
            raise BundleError(f"{SIGNATURES}: signature of {key_id!r} has another scope than {scope!r}")
        _check_files(bundle, claims.get("files"), key_id)
        signed_by.append(key_id)
    missing = [key_id for key_id in keys if key_id not in signed_by]
    if missing:
        raise BundleError(f"{SIGNATURES}: no signature of {', '.join(map(repr, missing))}")
    return tuple(signed_by)


def _tokens(bundle: Bundle) -> list[str]:
    try:
        document = json.loads(bundle.files[SIGNATURES])
    except KeyError:
        raise BundleError("bundle is not signed") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{SIGNATURES}: is no JSON") from error
    tokens = document.get("signatures") if isinstance(document, dict) else None
    if not isinstance(tokens, list) or not tokens or len(tokens) > 16:
        raise BundleError(f"{SIGNATURES}: 'signatures' is no list of 1 to 16 signatures")
    if not all(isinstance(token, str) for token in tokens):
        raise BundleError(f"{SIGNATURES}: a signature is no text")
    if document.get("plugin"):
        raise BundleError(f"{SIGNATURES}: needs a verification plugin, which the guard does not have")
    return [str(token) for token in tokens]


def _verified(token: str, keys: Mapping[str, ec.EllipticCurvePublicKey]) -> tuple[str, dict[str, Any]]:
    try:
        unverified = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, RecursionError, UnicodeError) as error:
        raise BundleError(f"{SIGNATURES}: a signature is no JWT") from error
    # OPA writes the key id into the header or, when it takes its claims from a file, into a claim.
    key_id = unverified["header"].get("kid") or unverified["payload"].get("keyid")
    if not isinstance(key_id, str) or key_id not in keys:
        raise BundleError(
            f"{SIGNATURES}: signed with a key id that is not configured: {str(key_id)[:100]!r}",
            "Name the public key of everybody who has signed, or have the bundle signed by the named keys only.",
        )
    try:
        claims = jwt.decode(
            token, keys[key_id], algorithms=[_ALGORITHM], options={"verify_aud": False, "verify_sub": False}
        )
    except jwt.ExpiredSignatureError as error:
        raise BundleError(f"{SIGNATURES}: signature of {key_id!r} has expired") from error
    except (jwt.PyJWTError, RecursionError) as error:
        raise BundleError(f"{SIGNATURES}: signature of {key_id!r} does not hold (ES256 expected)") from error
    return key_id, claims


def _check_files(bundle: Bundle, listed: object, key_id: str) -> None:
    if not isinstance(listed, list):
        raise BundleError(f"{SIGNATURES}: signature of {key_id!r} lists no files")
    remaining = {name for name in bundle.files if name != SIGNATURES}
    for entry in listed:
        name, expected, algorithm = (
            (entry.get("name"), entry.get("hash"), entry.get("algorithm")) if isinstance(entry, dict) else (None,) * 3
        )
        if not isinstance(name, str) or not isinstance(expected, str) or not isinstance(algorithm, str):
            raise BundleError(f"{SIGNATURES}: signature of {key_id!r} lists an entry without name, hash and algorithm")
        name = name.removeprefix("/")
        if name not in remaining:
            raise BundleError(f"{SIGNATURES}: {name[:200]!r} is listed but not in the bundle")
        if algorithm not in _HASHES:
            raise BundleError(
                f"{SIGNATURES}: hash algorithm {algorithm[:50]!r} is not accepted (SHA-256, SHA-384, SHA-512)"
            )
        if file_hash(name, bundle.files[name], algorithm) != expected.lower():
            raise BundleError(f"{name[:200]}: is not what {key_id!r} signed")
        remaining.remove(name)
    if remaining:
        raise BundleError(f"{min(remaining)[:200]}: is in the bundle but not listed in the signature of {key_id!r}")
