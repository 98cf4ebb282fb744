"""Signatures of bundles: all that are configured, over every file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from zeta_guard.errors import ConfigurationError
from zeta_guard.policy.bundle import (
    SIGNATURES,
    Bundle,
    BundleError,
    read_archive,
    read_bundle,
    read_folder,
    write_archive,
)
from zeta_guard.policy.signature import file_hash, load_signing_key, load_verification_keys, sign, verify

Key = ec.EllipticCurvePrivateKey
KeyFile = Callable[[Key, str], Path]


def signed(bundle: Bundle, *signers: tuple[str, Key], scope: str = "") -> Bundle:
    return read_bundle({**bundle.files, SIGNATURES: sign(bundle.files, signers, scope=scope)})


def with_claims(bundle: Bundle, key: Key, change: Callable[[dict[str, Any]], None], **header: Any) -> Bundle:
    """Signed again after a change of the claims."""
    token = json.loads(signed(bundle, ("a", key)).files[SIGNATURES])["signatures"][0]
    claims = jwt.decode(token, options={"verify_signature": False})
    change(claims)
    again = jwt.encode(claims, key, algorithm="ES256", headers={"kid": "a", **header})
    return read_bundle({**bundle.files, SIGNATURES: json.dumps({"signatures": [again]}).encode()})


def test_a_signed_bundle_is_verified(demo: Bundle, signing_key: Key) -> None:
    assert verify(signed(demo, ("a", signing_key)), {"a": signing_key.public_key()}) == ("a",)


def test_every_configured_key_must_have_signed(demo: Bundle, signing_key: Key) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    keys = {"a": signing_key.public_key(), "b": other.public_key()}
    assert verify(signed(demo, ("b", other), ("a", signing_key)), keys) == ("b", "a")
    with pytest.raises(BundleError, match="no signature of 'b'"):
        verify(signed(demo, ("a", signing_key)), keys)


def test_one_key_that_signs_twice_is_not_two(demo: Bundle, signing_key: Key) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(BundleError, match="signed twice"):
        verify(
            signed(demo, ("a", signing_key), ("a", signing_key)),
            {"a": signing_key.public_key(), "b": other.public_key()},
        )


def test_an_unsigned_bundle_is_refused(demo: Bundle, signing_key: Key) -> None:
    with pytest.raises(BundleError, match="not signed"):
        verify(demo, {"a": signing_key.public_key()})


def test_without_keys_nothing_is_verified(demo: Bundle, signing_key: Key) -> None:
    with pytest.raises(BundleError, match="no verification key"):
        verify(signed(demo, ("a", signing_key)), {})


def test_an_unknown_key_id_is_refused_even_beside_a_good_one(demo: Bundle, signing_key: Key) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(BundleError, match="not configured: 'b'"):
        verify(signed(demo, ("a", signing_key), ("b", other)), {"a": signing_key.public_key()})


def test_another_key_under_the_same_id_is_refused(demo: Bundle, signing_key: Key) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(BundleError, match="does not hold"):
        verify(signed(demo, ("a", other)), {"a": signing_key.public_key()})


@pytest.mark.parametrize("name", ["policy.wasm", "data.json", ".manifest", "authz.rego"])
def test_a_changed_file_is_refused(demo: Bundle, signing_key: Key, name: str) -> None:
    content = demo.files[name]
    changed = content.replace(b"300", b"3000") if name == "data.json" else content.replace(b'"demo-1"', b'"demo-2"')
    changed = content + b"\0" if changed == content else changed
    tampered = read_bundle({**signed(demo, ("a", signing_key)).files, name: changed})
    with pytest.raises(BundleError, match=r"is not what 'a' signed"):
        verify(tampered, {"a": signing_key.public_key()})


def test_an_unlisted_file_is_refused(demo: Bundle, signing_key: Key) -> None:
    more = read_bundle({**signed(demo, ("a", signing_key)).files, "more/data.json": b'{"x": 1}'})
    with pytest.raises(BundleError, match="not listed"):
        verify(more, {"a": signing_key.public_key()})


def test_a_missing_file_is_refused(demo: Bundle, signing_key: Key) -> None:
    files = dict(signed(demo, ("a", signing_key)).files)
    del files["data.json"]
    with pytest.raises(BundleError, match="listed but not in the bundle"):
        verify(read_bundle(files), {"a": signing_key.public_key()})


def test_the_scope_must_be_the_configured_one(demo: Bundle, signing_key: Key) -> None:
    keys = {"a": signing_key.public_key()}
    assert verify(signed(demo, ("a", signing_key), scope="policy"), keys, scope="policy") == ("a",)
    for given, expected in (("", "policy"), ("policy", ""), ("other", "policy")):
        with pytest.raises(BundleError, match="another scope"):
            verify(signed(demo, ("a", signing_key), scope=given), keys, scope=expected)


def test_white_space_in_data_does_not_count(demo: Bundle, signing_key: Key) -> None:
    spaced = json.dumps(json.loads(demo.files["data.json"]), indent=7).encode()
    bundle = read_bundle({**signed(demo, ("a", signing_key)).files, "data.json": spaced})
    assert verify(bundle, {"a": signing_key.public_key()}) == ("a",)


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-1", "", "SHA-512-256"])
def test_a_weak_or_unknown_hash_is_refused(demo: Bundle, signing_key: Key, algorithm: str) -> None:
    def change(claims: dict[str, Any]) -> None:
        claims["files"][0]["algorithm"] = algorithm

    with pytest.raises(BundleError, match="hash algorithm"):
        verify(with_claims(demo, signing_key, change), {"a": signing_key.public_key()})


@pytest.mark.parametrize(
    "change",
    [
        lambda claims: claims.pop("files"),
        lambda claims: claims.update(files="all"),
        lambda claims: claims.update(files=[1]),
        lambda claims: claims.update(files=[{"name": "data.json"}]),
        lambda claims: claims["files"].append(claims["files"][0]),
        lambda claims: claims.update(exp=1),
    ],
)
def test_claims_of_the_wrong_form_are_refused(
    demo: Bundle, signing_key: Key, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(BundleError):
        verify(with_claims(demo, signing_key, change), {"a": signing_key.public_key()})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"signatures": []}', '{"signatures": [1]}', '{"signatures": ["x"]}', '{"signatures": ["a.b.c"]}'],
)
def test_a_signature_file_of_the_wrong_form_is_refused(demo: Bundle, signing_key: Key, text: str) -> None:
    with pytest.raises(BundleError):
        verify(read_bundle({**demo.files, SIGNATURES: text.encode()}), {"a": signing_key.public_key()})


def test_another_algorithm_is_refused(demo: Bundle, signing_key: Key) -> None:
    public = signing_key.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims: dict[str, Any] = {"files": []}
    none = jwt.encode(claims, "", algorithm="none", headers={"kid": "a"})
    # PyJWT itself refuses to make this one: HMAC with the public key as the secret.
    import hmac

    head, body, _ = jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": "a"}).split(".")
    mac = jwt.utils.base64url_encode(hmac.digest(pem, f"{head}.{body}".encode(), "sha256")).decode()
    large = ec.generate_private_key(ec.SECP384R1())
    es384 = jwt.encode(claims, large, algorithm="ES384", headers={"kid": "a"})
    for token in (none, f"{head}.{body}.{mac}", es384):
        bundle = read_bundle({**demo.files, SIGNATURES: json.dumps({"signatures": [token]}).encode()})
        with pytest.raises(BundleError, match="does not hold"):
            verify(bundle, {"a": public})


def test_a_verification_plugin_is_refused(demo: Bundle, signing_key: Key) -> None:
    document = json.loads(signed(demo, ("a", signing_key)).files[SIGNATURES])
    bundle = read_bundle({**demo.files, SIGNATURES: json.dumps({**document, "plugin": "x"}).encode()})
    with pytest.raises(BundleError, match="plugin"):
        verify(bundle, {"a": signing_key.public_key()})


def test_keys_of_the_wrong_kind_are_configuration_errors(
    tmp_path: Path, public_key_file: KeyFile, signing_key: Key
) -> None:
    assert load_verification_keys({"a": public_key_file(signing_key, "a")}, "keys")["a"]
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    wrong = tmp_path / "rsa.pem"
    wrong.write_bytes(
        rsa.generate_private_key(65537, 2048)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    curve = public_key_file(ec.generate_private_key(ec.SECP384R1()), "p384")
    for path in (garbage, wrong, curve, tmp_path / "missing.pem"):
        with pytest.raises(ConfigurationError) as refused:
            load_verification_keys({"a": path}, "keys")
        assert refused.value.path == "keys.a"
        with pytest.raises(ConfigurationError):
            load_signing_key(path)


DATA = {
    "text": "Öffentliche <Apotheke> & \u2028 \u2029 \t \x01 \x7f \U0001f3e5 \"\\ /",
    "numbers": [0, -1, 1.5, 1e3, 100000000000000000000],
    "nothing": [None, True, False, {}, []],
    "ä": 1, "z": 2, "Z": 3, "\U0001f3e5": 4, "\ufb01": 5,
}  # fmt: skip


@pytest.mark.opa
def test_opa_accepts_what_is_signed_here(tmp_path: Path, demo: Bundle, signing_key: Key, public_key_file: KeyFile, opa: str) -> None:  # fmt: skip
    files = {
        ".manifest": json.dumps({"revision": "1", "roots": ["d"]}).encode(),
        "d/data.json": json.dumps(DATA, ensure_ascii=False).encode(),
        "d/x.rego": b"package d.x\n",
    }
    archive = tmp_path / "b.tar.gz"
    archive.write_bytes(write_archive({**files, SIGNATURES: sign(files, [("a", signing_key)], scope="s")}))
    command = [opa, "build", "--bundle", str(archive), "--verification-key", str(public_key_file(signing_key, "a"))]
    command += [
        "--verification-key-id",
        "a",
        "--signing-alg",
        "ES256",
        "--scope",
        "s",
        "--output",
        str(tmp_path / "out.tar.gz"),
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.opa
def test_what_opa_signed_is_accepted_here(tmp_path: Path, signing_key: Key, opa: str) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / ".manifest").write_text(json.dumps({"revision": "1", "roots": ["d"], "metadata": {"n": 1.50}}))
    (source / "d" / "data.json").write_text(json.dumps(DATA, ensure_ascii=False))
    (source / "d" / "x.rego").write_text("package d.x\n\na := 1\n")
    key_file = tmp_path / "key.pem"
    key_file.write_bytes(
        signing_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (tmp_path / "claims.json").write_text('{"scope": "s", "keyid": "a"}')
    command = [opa, "sign", "--signing-key", str(key_file), "--signing-alg", "ES256", "--bundle", "."]
    done = subprocess.run(
        [*command, "--claims-file", str(tmp_path / "claims.json")], cwd=source, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    bundle = read_folder(source)
    assert bundle.signed
    assert verify(bundle, {"a": signing_key.public_key()}, scope="s") == ("a",)


@pytest.mark.opa
def test_what_two_have_signed_both_must_have_signed_and_opa_refuses_it(
    tmp_path: Path, signing_key: Key, public_key_file: KeyFile, opa: str
) -> None:
    """A bundle for an OPA server has one signer; the guide for policy authors says so."""
    files = {".manifest": b'{"revision": "1", "roots": ["d"]}', "d/x.rego": b"package d.x\n"}
    reviewer = ec.generate_private_key(ec.SECP256R1())
    signed = write_archive({**files, SIGNATURES: sign(files, [("a", signing_key), ("b", reviewer)])})
    keys = {"a": signing_key.public_key(), "b": reviewer.public_key()}
    assert verify(read_archive(signed), keys) == ("a", "b")
    with pytest.raises(BundleError, match="not configured: 'b'") as refused:
        verify(read_archive(signed), {"a": signing_key.public_key()})
    assert "public key of everybody" in refused.value.remedy
    archive = tmp_path / "b.tar.gz"
    archive.write_bytes(signed)
    command = [opa, "build", "--bundle", str(archive), "--verification-key", str(public_key_file(signing_key, "a"))]
    done = subprocess.run(
        [*command, "--verification-key-id", "a", "--signing-alg", "ES256", "--output", str(tmp_path / "out.tar.gz")],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    assert b"multiple JWTs not supported" in done.stderr + done.stdout


@pytest.mark.parametrize("content", [b'{"a": "\\ud800"}', b'{"\\ud800": 1}', b'{"a": NaN}', b"{", b"[" * 100_000])
def test_what_cannot_be_hashed_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"^data\.json: is no JSON"):
        file_hash("data.json", content)
