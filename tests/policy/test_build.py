"""From sources to a bundle that may decide, with a real ``opa``."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.errors import ConfigurationError
from zeta_guard.policy.build import build, build_published
from zeta_guard.policy.bundle import SIGNATURES, BundleError, read_archive, read_bundle
from zeta_guard.policy.opa_binary import find_opa
from zeta_guard.policy.prefix_list import canonical_prefix, check_prefix_lists
from zeta_guard.policy.signature import sign, verify
from zeta_guard.policy.user_list import check_user_lists
from zeta_guard.policy.workbench import open_bundle

Any3 = Callable[..., Any]

RULES = """package policies.zeta.authz

# METADATA
# custom:
#   reasons:
#     too_late: It is after the end.
reasons contains {"code": "too_late", "message": "Too late"} if input.late

decision := {"allow": count(reasons) == 0, "reasons": reasons}
"""


def sources(folder: Path, rules: str = RULES, *, manifest: dict[str, Any] | None = None, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "authz.rego").write_text(rules)
    (folder / ".manifest").write_text(
        json.dumps(manifest or {"revision": "s1", "roots": ["policies/zeta", "addresses"]})
    )
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


@pytest.mark.opa
def test_a_build_records_where_each_reason_comes_from(tmp_path: Path) -> None:
    bundle = build(sources(tmp_path / "s"), revision="r9", order=9).bundle
    assert (bundle.manifest.revision, bundle.manifest.order) == ("r9", 9)
    (reason,) = bundle.manifest.reasons
    assert (reason.code, reason.file, reason.line) == ("too_late", "authz.rego", 7)
    assert reason.description == "It is after the end."
    assert bundle.manifest.reads == {"policies/zeta/authz/decision": ("late",)}
    assert bundle.files["authz.rego"].decode() == RULES


@pytest.mark.opa
def test_tests_are_not_shipped(tmp_path: Path) -> None:
    folder = sources(tmp_path / "s")
    (folder / "authz_test.rego").write_text("package policies.zeta.authz_test\n\ntest_x if true\n")
    assert "authz_test.rego" not in build(folder).bundle.files


@pytest.mark.opa
def test_a_shared_folder_is_included_under_its_name(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "late.rego").write_text("package policies.zeta.lib.late\n\nlate if input.late\n")
    manifest = {
        "revision": "1",
        "roots": ["policies/zeta"],
        "metadata": {"zeta_guard": {"order": 3, "include": ["../shared"]}},
    }
    rules = 'package policies.zeta.authz\n\ndecision := {"allow": true} if not data.policies.zeta.lib.late.late\n'
    bundle = build(sources(tmp_path / "s", rules, manifest=manifest)).bundle
    assert "shared/late.rego" in bundle.files
    assert bundle.manifest.order == 3


@pytest.mark.opa
@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ('package policies.zeta.authz\n\ndecision := {"allow": nonsense}\n', r"authz\.rego:3: rego_unsafe_var_error"),
        ('package policies.other\n\ndecision := {"allow": true}\n', "no rule 'policies/zeta/authz/decision'"),
        ("package policies.zeta.authz\n\nallow := true\n", "opa build failed"),
        ("package other\n\nx := 1\n", "no rule"),
    ],
)
def test_sources_that_do_not_compile_are_refused_with_opas_words(tmp_path: Path, rules: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        build(sources(tmp_path / "s", rules))


@pytest.mark.opa
def test_a_builtin_that_the_engine_lacks_is_refused_by_name(tmp_path: Path) -> None:
    """Rules that call it compile: an OPA server has the built-in. The engine refuses the bundle, it never skips the rule."""
    rules = (
        "package policies.zeta.authz\n\n"
        'decision := {"allow": false} if http.send({"method": "GET", "url": "http://x"}).status_code != 200\n\n'
        'decision := {"allow": true} if sprintf("%d", [time.now_ns()]) != ""\n'
    )
    with pytest.raises(BundleError) as refused:
        open_bundle(str(sources(tmp_path / "s", rules)))
    for name in ("http.send", "sprintf", "time.now_ns"):
        assert name in str(refused.value)
    assert "OPA server" in refused.value.remedy


@pytest.mark.opa
def test_a_decision_that_depends_on_the_time_cannot_be_remembered(tmp_path: Path) -> None:
    request = 'package policies.zeta.request\n\ndecision := {"allow": input.time > 5, "cache_seconds": 5}\n'
    folder = sources(tmp_path / "s")
    (folder / "request.rego").write_text(request)
    with pytest.raises(BundleError, match=r"input\.time"):
        build(folder)
    (folder / "request.rego").write_text(request.replace(', "cache_seconds": 5', ""))
    build(folder)
    (folder / "request.rego").write_text(request.replace("input.time > 5", "true"))
    build(folder)


@pytest.mark.opa
@pytest.mark.parametrize(
    ("blocked", "message"),
    [
        ('{"192.0.2.1/24": 1}', r"'192\.0\.2\.1/24' should be '192\.0\.2\.0/24'"),
        ('{"192.0.2.1": 1}', r"should be '192\.0\.2\.1/32'"),
        ('{"2001:DB8::/32": 1}', r"should be '2001:db8::/32'"),
        ('{"::ffff:192.0.2.0/120": 1}', r"should be '192\.0\.2\.0/24'"),
        ('{"tor": 1}', "'tor' is no network"),
        ('["192.0.2.0/24"]', "is an array"),
    ],
)
def test_an_address_list_that_blocks_nobody_is_refused(tmp_path: Path, blocked: str, message: str) -> None:
    folder = sources(tmp_path / "s")
    (folder / "data.json").write_text(f'{{"addresses": {{"blocked": {blocked}}}}}')
    with pytest.raises(BundleError, match=message):
        build(folder)


@pytest.mark.parametrize("name", ["blocked", "allowed"])
@pytest.mark.parametrize(
    "key", ["", " 1-2012345678", "1-2012345678 ", "1-2012\u00a0345678", "1-2012345678\n", "1-2012345678\x07"]
)
def test_a_list_of_institutions_that_finds_nobody_is_refused_without_naming_anybody(name: str, key: str) -> None:
    with pytest.raises(BundleError, match=rf"data\.users\.{name}: entry 2") as refused:
        check_user_lists({"users": {name: {"1-2012345678": "why", key: "why"}}})
    assert "2012" not in str(refused.value)


@pytest.mark.parametrize(
    "users",
    [None, [], {}, {"blocked": []}, {"blocked": {}}, {"blocked": {"1-2012345678": "stolen", "9-2.58.00000040": 1}}],
)
def test_other_lists_of_institutions_are_let_be(users: Any) -> None:
    check_user_lists({"users": users})


@pytest.mark.opa
def test_a_build_looks_at_the_list_of_institutions(tmp_path: Path) -> None:
    folder = sources(tmp_path / "s", manifest={"revision": "s1", "roots": ["policies/zeta", "users"]})
    (folder / "data.json").write_text('{"users": {"blocked": {"1-2012345678 ": "stolen"}}}')
    with pytest.raises(BundleError, match="no Telematik-ID"):
        build(folder)


def test_prefixes_have_one_form() -> None:
    assert canonical_prefix("10.0.0.0/8") == "10.0.0.0/8"
    assert canonical_prefix("0.0.0.0/0") == "0.0.0.0/0"
    assert canonical_prefix("::/0") == "::/0"
    assert canonical_prefix("::ffff:0:0/95") == "::fffe:0:0/95"
    assert canonical_prefix("300.0.0.0/8") is None


@given(
    st.one_of(
        st.builds(lambda address, length: f"{address}/{length}", st.ip_addresses(), st.integers(-1, 130)),
        st.ip_addresses(network="0.0.0.0/0").map(str),
        st.builds(
            lambda number, length: str(ip_network((number >> 128 - length << 128 - length, length))),
            st.one_of(
                st.integers(0, 2**128 - 1),
                st.integers(0, 2**50),
                st.builds(lambda n: n << 64, st.integers(0, 2**64 - 1)),
            ),
            st.integers(0, 128),
        ),
        st.text(alphabet="0123456789./:abx ", max_size=20),
    )
)
def test_the_fast_look_at_a_prefix_agrees_with_the_full_one(text: str) -> None:
    for candidate in (text, canonical_prefix(text) or text):
        accepted = True
        try:
            check_prefix_lists({"addresses": {"blocked": {candidate: 1}}})
        except BundleError:
            accepted = False
        assert accepted == (canonical_prefix(candidate) == candidate)


def test_of_many_wrong_prefixes_some_are_shown() -> None:
    blocked: Any = {f"10.0.{number}.1/24": 1 for number in range(50)}
    with pytest.raises(BundleError, match="30 more"):
        check_prefix_lists({"addresses": {"blocked": blocked}})
    check_prefix_lists({})
    with pytest.raises(BundleError):
        check_prefix_lists({"addresses": []})


@pytest.mark.opa
def test_a_publishers_bundle_is_built_with_its_verified_signers(tmp_path: Path) -> None:
    """What the publisher signed is verified before anything is compiled, and the result says who it was."""
    author, release = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    files = {
        ".manifest": b'{"revision": "p1", "roots": ["policies/zeta"]}',
        "policies/zeta/authz.rego": RULES.encode(),
    }
    published = read_bundle({**files, SIGNATURES: sign(files, [("author", author), ("release", release)])})
    signers = verify(published, {"author": author.public_key(), "release": release.public_key()})
    built = build_published(published, order=1, signers=signers)
    assert built.bundle.manifest.signers == ("author", "release")
    assert built.bundle.manifest.revision == "p1"
    assert SIGNATURES not in built.bundle.files
    assert read_archive(built.archive).digest == built.bundle.digest


@pytest.mark.opa
def test_a_bundle_in_the_published_style_decides_after_a_build(published: Path, practice: Any3) -> None:
    data = json.loads((published / "data.json").read_text())
    denied = open_bundle(str(published)).decide("token", practice(scopes=["vsdservice", "popp"]))
    assert [reason.message for reason in denied.reasons] == [
        "One or more requested scopes are not allowed",
        "Requests from this address are not allowed",
    ]
    data["ip_blocklist"] = {"blocked_ips": []}
    (published / "data.json").write_text(json.dumps(data))
    allowed = open_bundle(str(published)).decide("token", practice(scopes=["vsdservice"]))
    assert (allowed.allow, allowed.access_token_ttl, allowed.refresh_token_ttl) == (True, 300, 86400)


def test_without_opa_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZETA_GUARD_OPA", "/nonexistent/opa")
    with pytest.raises(ConfigurationError) as refused:
        find_opa()
    assert refused.value.path == "ZETA_GUARD_OPA"
    monkeypatch.delenv("ZETA_GUARD_OPA")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigurationError, match="openpolicyagent"):
        find_opa()


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_folder_without_manifest_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(BundleError, match=r"has no \.manifest"):
        build(tmp_path / name)


def test_of_a_folder_of_bundles_the_bundles_are_named() -> None:
    policies = Path(__file__).parents[2] / "policies"
    with pytest.raises(BundleError) as refused:
        build(policies)
    assert f"{policies / 'demo'} {policies / 'popp'}" in refused.value.remedy
    assert "lib" not in refused.value.remedy.replace(str(policies), "")
