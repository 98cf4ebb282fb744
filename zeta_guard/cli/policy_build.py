"""``policy build``, ``policy sign`` and ``policy verify``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from zeta_guard.errors import ConfigurationError
from zeta_guard.policy.build import build, build_published
from zeta_guard.policy.bundle import SIGNATURES, Bundle, read_archive, read_folder, write_archive
from zeta_guard.policy.signature import load_signing_key, load_verification_keys, sign, verify


def _add_signing(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--sign",
        type=Path,
        action="append",
        metavar="KEY",
        required=required,
        help="PEM private key (P-256); repeatable",
    )
    parser.add_argument("--key-id", action="append", metavar="ID", required=required, help="key id of each --sign")
    parser.add_argument("--scope", default="", help="scope that the signature names")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_keys(parser: argparse.ArgumentParser, flag: str, text: str) -> None:
    parser.add_argument(flag, action="append", metavar="ID=FILE", default=[], help=text)


def configure_build(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``policy build``."""
    parser.add_argument(
        "source", type=Path, metavar="SRC", help="folder of sources, or a publisher's .tar.gz of sources"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the .tar.gz to write")
    parser.add_argument("--revision", help="default: revision of the manifest")
    parser.add_argument("--order", type=int, help="number that grows with each release; default: of the manifest")
    _add_keys(parser, "--publisher", "key of the publisher whose signature SRC must carry; repeatable, all must hold")
    parser.add_argument("--publisher-scope", default="", help="scope of the publisher's signatures")
    _add_signing(parser, required=False)
    parser.epilog = (
        "example: zeta-guard policy build policies/demo -o demo.tar.gz --sign key.pem --key-id operator --order 7"
    )


def run_build(args: argparse.Namespace) -> int:
    """Verify the publisher, compile, record, sign, write."""
    signers = _signers(args)
    publishers = _keys(args.publisher, "--publisher")
    if publishers or not args.source.is_dir():
        published = _read(args.source)
        signed_by = verify(published, publishers, scope=args.publisher_scope) if publishers else ()
        built = build_published(published, revision=args.revision, order=args.order, signers=signed_by)
    else:
        built = build(args.source, revision=args.revision, order=args.order)
    archive = built.archive
    if signers:
        archive = write_archive({**built.bundle.files, SIGNATURES: sign(built.bundle.files, signers, scope=args.scope)})
    _write(args.output, archive)
    _print(read_archive(archive), tuple(key_id for key_id, _ in signers), args.json, str(args.output))
    return 0


def configure_sign(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``policy sign``."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="built bundle")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="default: in place")
    _add_signing(parser, required=True)
    parser.epilog = (
        "Earlier signatures are replaced.\nexample: zeta-guard policy sign demo.tar.gz --sign key.pem --key-id operator"
    )


def run_sign(args: argparse.Namespace) -> int:
    """Sign an archive with all given keys."""
    signers = _signers(args)
    bundle = _read(args.bundle)
    files = {name: content for name, content in bundle.files.items() if name != SIGNATURES}
    archive = write_archive({**files, SIGNATURES: sign(files, signers, scope=args.scope)})
    output = args.output or args.bundle
    if output.is_dir():
        raise ConfigurationError("--output", str(output), "a .tar.gz file to write")
    _write(output, archive)
    _print(read_archive(archive), tuple(key_id for key_id, _ in signers), args.json, str(output))
    return 0


def configure_verify(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``policy verify``."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle, archive or folder")
    _add_keys(parser, "--key", "public key (PEM) that must have signed; repeatable, all must hold")
    parser.add_argument("--scope", default="", help="scope that the signatures must name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "Without --key only what the bundle is gets printed, its digest among it.\n"
        "Exit status 1 when a signature does not hold.\n"
        "example: zeta-guard policy verify demo.tar.gz --key operator=key.pub.pem"
    )


def run_verify(args: argparse.Namespace) -> int:
    """Verify, then say what the bundle is. A BundleError ends with exit status 1 in ``main``."""
    bundle = _read(args.bundle)
    keys = _keys(args.key, "--key")
    signed_by = verify(bundle, keys, scope=args.scope) if keys else ()
    _print(bundle, signed_by, args.json, str(args.bundle))
    return 0


def _signers(args: argparse.Namespace) -> list[tuple[str, ec.EllipticCurvePrivateKey]]:
    files, key_ids = args.sign or [], args.key_id or []
    if len(files) != len(key_ids):
        raise ConfigurationError(
            "--key-id",
            f"{len(key_ids)} key ids for {len(files)} keys",
            "one --key-id for each --sign, in the same order",
        )
    return [(key_id, load_signing_key(file)) for key_id, file in zip(key_ids, files, strict=True)]


def _keys(given: list[str], flag: str) -> dict[str, ec.EllipticCurvePublicKey]:
    files: dict[str, Path] = {}
    for text in given:
        key_id, equals, file = text.partition("=")
        if not key_id or not equals or not file:
            raise ConfigurationError(flag, repr(text), "ID=FILE, for example operator=key.pub.pem")
        files[key_id] = Path(file)
    return load_verification_keys(files, flag)


def _read(path: Path) -> Bundle:
    if path.is_dir():
        return read_folder(path)
    try:
        return read_archive(path.read_bytes())
    except OSError as error:
        raise ConfigurationError("BUNDLE", f"{path} ({error.strerror})", "a .tar.gz file or a folder") from None


def _write(path: Path, archive: bytes) -> None:
    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.write_bytes(archive)
        scratch.replace(path)
    except OSError as error:
        raise ConfigurationError("--output", f"{path} ({error.strerror})", "a file that can be written") from None


def _print(bundle: Bundle, signed_by: tuple[str, ...], as_json: bool, name: str) -> None:
    manifest = bundle.manifest
    if as_json:
        print(
            json.dumps(
                {
                    "bundle": name,
                    "revision": manifest.revision,
                    "order": manifest.order,
                    "digest": bundle.digest,
                    "entrypoints": list(manifest.entrypoints),
                    "publishers": list(manifest.signers),
                    "signed_by": list(signed_by),
                }
            )
        )
        return
    print(f"{name}: revision {manifest.revision or '-'}, order {manifest.order if manifest.order is not None else '-'}")
    print(f"  digest       {bundle.digest}")
    print(f"  decides      {', '.join(manifest.entrypoints) or 'nothing: it holds sources only'}")
    print(f"  publishers   {', '.join(manifest.signers) or '-'}")
    print(
        f"  signed by    {', '.join(signed_by) or ('signatures not checked: name keys with --key' if bundle.signed else 'nobody')}"
    )
