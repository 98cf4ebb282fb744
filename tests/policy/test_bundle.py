"""Archives and folders as bundles: what an attacker's tar file cannot do."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.policy import bundle as bundles
from zeta_guard.policy.bundle import Bundle, BundleError, read_archive, read_bundle, read_folder, write_archive

Variant = Callable[..., Bundle]


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def file(name: str, content: bytes = b"{}", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    return member, content


def manifest(**members: Any) -> bytes:
    return json.dumps({"roots": [""], **members}).encode()


def test_an_archive_is_read_back_as_written(demo: Bundle) -> None:
    again = read_archive(write_archive(demo.files))
    assert again == demo
    assert again.digest == demo.digest


def test_the_same_files_make_the_same_bytes(demo: Bundle) -> None:
    backwards = dict(reversed(list(demo.files.items())))
    assert write_archive(backwards) == write_archive(demo.files)


def test_the_digest_covers_every_file_but_the_signatures(demo: Bundle) -> None:
    for name, content in demo.files.items():
        assert read_bundle({**demo.files, name: content + b" "}).digest != demo.digest
    assert read_bundle({**demo.files, "more.json": b""}).digest != demo.digest
    assert read_bundle({**demo.files, ".signatures.json": b"{}"}).digest == demo.digest


def test_names_of_opa_begin_with_a_slash() -> None:
    assert read_archive(tar(file("/data.json", b'{"a": 1}'))).document() == {"a": 1}
    assert read_archive(tar(file("./data.json", b'{"a": 1}'))).document() == {"a": 1}


@pytest.mark.parametrize(
    "name", ["../data.json", "a/../../b", "//data.json", "a//b", "a/./b", "a\\b", "/../x", "..", "."]
)
def test_a_name_that_points_out_of_the_bundle_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match="points out"):
        read_archive(tar(file(name)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE])
def test_links_and_devices_are_refused(kind: bytes) -> None:
    with pytest.raises(BundleError, match="no regular file"):
        read_archive(tar(file("data.json", b"", type=kind, linkname="/etc/passwd")))


def test_a_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(BundleError, match="twice"):
        read_archive(tar(file("data.json"), file("/data.json")))


def test_too_many_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MAX_FILES", 2)
    read_archive(tar(file("a"), file("b")))
    with pytest.raises(BundleError, match="more than 2 files"):
        read_archive(tar(file("a"), file("b"), file("c")))


def test_what_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MAX_UNPACKED_BYTES", 100_000)
    bomb = gzip.compress(bytes(1_000_000))
    assert len(bomb) < 2_000
    with pytest.raises(BundleError, match="unpacks to more"):
        read_archive(bomb)


def test_a_large_archive_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MAX_PACKED_BYTES", 10)
    with pytest.raises(BundleError, match="larger than 10"):
        read_archive(tar(file("data.json")))


def test_a_truncated_archive_is_refused(demo: Bundle) -> None:
    whole = write_archive(demo.files)
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        with pytest.raises(BundleError):
            read_archive(whole[:length])


@given(st.binary(max_size=2000))
def test_no_bytes_raise_anything_but_the_one_error(raw: bytes) -> None:
    for candidate in (raw, gzip.compress(raw)):
        with contextlib.suppress(BundleError):
            read_archive(candidate)


@given(st.integers(0, 3000), st.integers(0, 255))
def test_no_damaged_tar_raises_anything_but_the_one_error(position: int, value: int) -> None:
    raw = bytearray(gzip.decompress(tar(file("data.json"), file(".manifest", manifest()))))
    raw[position % len(raw)] = value
    with contextlib.suppress(BundleError):
        read_archive(gzip.compress(bytes(raw))).document()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["revision", "roots", "metadata", "zeta_guard", "order", "reasons", "reads", "wasm", "code", "file", "line"]), x), max_leaves=10))  # fmt: skip
def test_no_manifest_raises_anything_but_the_one_error(document: Any) -> None:
    with contextlib.suppress(BundleError):
        read_bundle({".manifest": json.dumps(document).encode()})


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"revision": 1},
        {"revision": "x" * 257},
        {"revision": "a\nb"},
        {"roots": "policies"},
        {"roots": [1]},
        {"wasm": {}},
        {"wasm": [{}]},
        {"metadata": {"zeta_guard": {"order": True}}},
        {"metadata": {"zeta_guard": {"order": 1.5}}},
        {"metadata": {"zeta_guard": {"reasons": [{"code": "c"}]}}},
        {"metadata": {"zeta_guard": {"reads": []}}},
        {"metadata": {"zeta_guard": {"reads": {"a": [1]}}}},
    ],
)
def test_a_manifest_of_wrong_types_is_refused(document: Any) -> None:
    with pytest.raises(BundleError):
        read_bundle({".manifest": json.dumps(document).encode()})


def test_data_lie_below_their_folders() -> None:
    bundle = read_bundle({"a/b/data.json": b'{"c": 1}', "a/data.json": b'{"d": 2}', "data.json": b'{"e": 3}'})
    assert bundle.document() == {"a": {"b": {"c": 1}, "d": 2}, "e": 3}


def test_data_that_stand_twice_are_refused() -> None:
    with pytest.raises(BundleError, match="twice"):
        read_bundle({"a/data.json": b'{"b": 1}', "data.json": b'{"a": {"b": 2}}'}).document()
    with pytest.raises(BundleError, match="twice"):
        read_bundle({"a/data.json": b'{"b": 1}', "a/b/data.json": b'{"c": 2}'}).document()


def test_data_outside_the_roots_are_refused() -> None:
    files = {".manifest": manifest(roots=["a/b", "c"])}
    inside = {**files, "data.json": b'{"a": {"b": {"x": 1}}, "c": [1]}'}
    assert read_bundle(inside).document() == {"a": {"b": {"x": 1}}, "c": [1]}
    for outside in ('{"d": 1}', '{"a": {"e": 1}}', '{"a": 1}', '{"a": {"bb": 1}}'):
        with pytest.raises(BundleError, match="outside the roots"):
            read_bundle({**files, "data.json": outside.encode()}).document()


def test_yaml_data_are_refused_with_the_command() -> None:
    with pytest.raises(BundleError) as refused:
        read_bundle({"data.yaml": b"a: 1"}).document()
    assert "policy build" in refused.value.remedy


def test_a_folder_is_a_bundle_too(demo: Bundle, tmp_path: Path) -> None:
    for name, content in demo.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert read_folder(tmp_path).digest == demo.digest


def test_a_link_in_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.json").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match="symbolic link"):
        read_folder(tmp_path)
