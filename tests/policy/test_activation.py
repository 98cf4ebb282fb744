"""Which bundles may decide, and what stays when one may not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from zeta_guard.errors import ConfigurationError, ZetaError
from zeta_guard.policy.bundle import SIGNATURES, Bundle, BundleError, read_bundle
from zeta_guard.policy.embedded import EmbeddedEngine
from zeta_guard.policy.service import PolicyService
from zeta_guard.policy.signature import sign

Key = ec.EllipticCurvePrivateKey
KeyFile = Callable[[Key, str], Path]
Any3 = Callable[..., Any]


def signed(bundle: Bundle, key: Key, key_id: str = "a") -> dict[str, bytes]:
    return {SIGNATURES: sign(bundle.files, [(key_id, key)])}


def embedded(service: PolicyService) -> EmbeddedEngine:
    engine = service._token
    assert isinstance(engine, EmbeddedEngine)
    return engine


class Release:
    """A file that a guard reads its policy from, and the configuration of that guard."""

    def __init__(self, path: Path, key: Key, pack: Any3, keys: dict[str, str]) -> None:
        self.path = path
        self._key = key
        self._pack = pack
        self.section: dict[str, Any] = {"engine": "embedded", "bundle": str(path), "verification_keys": keys}

    def publish(self, bundle: Bundle) -> None:
        self.path.write_bytes(self._pack(bundle, signed(bundle, self._key)))


@pytest.fixture
def release(tmp_path: Path, signing_key: Key, public_key_file: KeyFile, pack: Any3) -> Release:
    return Release(tmp_path / "policy.tar.gz", signing_key, pack, {"a": str(public_key_file(signing_key, "a"))})


async def test_the_packaged_bundle_decides_without_any_signature(run_policy: Any3, practice: Any3) -> None:
    async with run_policy({"token": {"engine": "embedded", "bundle": "package:demo"}}) as service:
        decision = await service.token.decide("token", practice(), now=0)
        assert decision.allow
        assert (decision.access_token_ttl, decision.refresh_token_ttl) == (300, 86400)
        assert decision.revision == service.token.revision == "demo-1"
        assert await service.readiness() is None


async def test_an_unknown_packaged_bundle_is_refused_with_those_that_exist(run_policy: Any3) -> None:
    with pytest.raises(ConfigurationError, match=r"package:demo.*package:vsdm"):
        async with run_policy({"token": {"engine": "embedded", "bundle": "package:../x"}}):
            pass


async def test_a_signed_bundle_from_outside_decides(run_policy: Any3, practice: Any3, release: Release, variant: Any3) -> None:  # fmt: skip
    release.publish(variant(revision="ours", order=7))
    async with run_policy({"token": release.section}) as service:
        assert (await service.token.decide("token", practice(), now=0)).revision == "ours"


async def test_an_unsigned_bundle_from_outside_is_refused_with_the_command(
    run_policy: Any3, release: Release, variant: Any3, pack: Any3
) -> None:
    release.path.write_bytes(pack(variant()))
    for section in (release.section, {**release.section, "verification_keys": {}}):
        with pytest.raises(ConfigurationError) as refused:
            async with run_policy({"token": section}):
                pass
        assert refused.value.path == "policy.token.bundle"
    assert "zeta-guard policy build" in refused.value.remedy
    assert "--sign" in refused.value.remedy


async def test_unsafe_unsigned_is_named_and_measured(run_policy: Any3, practice: Any3, release: Release, variant: Any3, pack: Any3) -> None:  # fmt: skip
    release.path.write_bytes(pack(variant()))
    registry = CollectorRegistry()
    section = {**release.section, "verification_keys": {}, "unsafe_unsigned": True}
    async with run_policy({"token": section}, registry=registry) as service:
        assert (await service.token.decide("token", practice(), now=0)).allow
    assert registry.get_sample_value("zeta_guard_policy_unsafe_unsigned", {"engine": "token"}) == 1


async def test_a_bundle_of_sources_is_refused_with_the_command(
    run_policy: Any3, release: Release, variant: Any3
) -> None:
    files = {name: content for name, content in variant().files.items() if name != "policy.wasm"}
    release.publish(read_bundle(files))
    with pytest.raises(ConfigurationError) as refused:
        async with run_policy({"token": release.section}):
            pass
    assert "holds sources" in refused.value.seen
    assert "zeta-guard policy build" in refused.value.remedy


@pytest.mark.parametrize("code", [b"nonsense", b"\0asm", b""])
async def test_code_that_is_no_policy_is_refused_with_the_command(
    run_policy: Any3, release: Release, variant: Any3, code: bytes
) -> None:
    release.publish(read_bundle({**variant().files, "policy.wasm": code}))
    with pytest.raises(ConfigurationError) as refused:
        async with run_policy({"token": release.section}):
            pass
    assert refused.value.path == "policy.token.bundle"
    assert "zeta-guard policy build" in refused.value.remedy


async def test_a_tampered_bundle_is_refused(run_policy: Any3, release: Release, variant: Any3, pack: Any3, signing_key: Key) -> None:  # fmt: skip
    good = variant()
    bad = variant(lambda data: data["professions"]["allowed"].update({"1.2.276.0.76.4.58": "x"}))
    release.path.write_bytes(pack(bad, signed(good, signing_key)))
    with pytest.raises(ConfigurationError, match="is not what 'a' signed"):
        async with run_policy({"token": release.section}):
            pass


async def test_a_newer_bundle_takes_over_and_the_decisions_name_it(
    run_policy: Any3, practice: Any3, release: Release, variant: Any3
) -> None:
    release.publish(variant(revision="one", order=1))
    async with run_policy({"token": release.section}) as service:
        assert not await embedded(service).look()
        release.publish(variant(lambda data: data["scopes"]["allowed"].pop("popp"), revision="two", order=2))
        assert await embedded(service).look()
        decision = await service.token.decide("token", practice(), now=0)
        assert (decision.allow, decision.revision) == (False, "two")


@pytest.mark.parametrize("order", [1, 2])
async def test_a_downgrade_is_refused_and_the_last_good_bundle_stays(
    run_policy: Any3, practice: Any3, release: Release, variant: Any3, order: int
) -> None:
    release.publish(variant(revision="two", order=2))
    registry = CollectorRegistry()
    async with run_policy({"token": release.section}, registry=registry) as service:
        release.publish(variant(revision="other", order=order))
        with pytest.raises(BundleError, match=f"order {order}"):
            await embedded(service).look()
        assert (await service.token.decide("token", practice(), now=0)).revision == "two"
    labels = {"engine": "token", "outcome": "refused"}
    assert registry.get_sample_value("zeta_guard_policy_bundle_activations_total", labels) == 1


async def test_a_refused_bundle_is_told_until_a_good_one_comes(
    run_policy: Any3, release: Release, variant: Any3
) -> None:
    release.publish(variant(revision="two", order=2))
    async with run_policy({"token": release.section}) as service:
        engine = embedded(service)
        release.publish(variant(revision="one", order=1))
        with pytest.raises(BundleError, match="downgrade") as refused:
            await engine.look()
        assert "above 2" in refused.value.remedy
        # The source has nothing new to tell, and what it has is no better for that.
        assert not await engine.look()
        assert "a newer one cannot be used: bundle has order 1" in str(await service.readiness())
        release.publish(variant(revision="three", order=3))
        assert await engine.look()
        assert await service.readiness() is None


async def test_a_reload_does_not_forget_the_highest_order(run_policy: Any3, release: Release, variant: Any3) -> None:
    release.publish(variant(order=5))
    async with run_policy({"token": release.section}):
        pass
    release.publish(variant(order=4))
    with pytest.raises(ConfigurationError, match="downgrade"):
        async with run_policy({"token": release.section}):
            pass


async def test_a_bundle_that_comes_again_is_no_downgrade(
    run_policy: Any3, release: Release, variant: Any3, tmp_path: Path
) -> None:
    release.publish(variant(order=2))
    section = {**release.section, "state_file": str(tmp_path / "kept.json")}
    for _ in range(2):
        async with run_policy({"token": section}) as service:
            assert service.token.revision == "variant"


async def test_the_highest_order_survives_a_restart(run_policy: Any3, release: Release, variant: Any3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    section = {**release.section, "state_file": str(tmp_path / "kept.json")}
    release.publish(variant(revision="five", order=5))
    async with run_policy({"token": section}):
        pass
    monkeypatch.setattr("zeta_guard.policy.activation._highest", {})
    release.publish(variant(revision="four", order=4))
    async with run_policy({"token": section}) as service:
        assert service.token.revision == "five"
        assert "order 4" in (await service.readiness() or "")


async def test_an_older_state_file_does_not_lower_what_the_process_has_accepted(
    run_policy: Any3, release: Release, variant: Any3, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    section = {**release.section, "state_file": str(kept)}
    release.publish(variant(order=4))
    async with run_policy({"token": section}):
        pass
    older = kept.read_bytes()
    release.publish(variant(order=5))
    async with run_policy({"token": section}):
        pass
    kept.write_bytes(older)
    release.publish(variant(order=4))
    with pytest.raises(ConfigurationError, match=r"a downgrade.*a downgrade"):
        async with run_policy({"token": section}):
            pass


async def test_the_last_good_bundle_decides_when_its_source_is_away_at_start(
    run_policy: Any3, practice: Any3, release: Release, variant: Any3, tmp_path: Path
) -> None:
    section = {**release.section, "state_file": str(tmp_path / "kept.json")}
    release.publish(variant(revision="kept", order=5))
    async with run_policy({"token": section}):
        pass
    release.path.write_bytes(b"damaged")
    async with run_policy({"token": section}) as service:
        assert (await service.token.decide("token", practice(), now=0)).revision == "kept"
        assert "cannot be used" in (await service.readiness() or "")


async def test_what_was_kept_is_verified_again(
    run_policy: Any3, release: Release, variant: Any3, tmp_path: Path, public_key_file: KeyFile
) -> None:
    section = {**release.section, "state_file": str(tmp_path / "kept.json")}
    release.publish(variant(order=5))
    async with run_policy({"token": section}):
        pass
    release.path.write_bytes(b"damaged")
    other = public_key_file(ec.generate_private_key(ec.SECP256R1()), "other")
    with pytest.raises(ConfigurationError) as refused:
        async with run_policy({"token": {**section, "verification_keys": {"a": str(other)}}}):
            pass
    assert refused.value.path == "policy.token.state_file"


async def test_a_damaged_state_file_is_an_error_not_a_fresh_start(
    run_policy: Any3, release: Release, variant: Any3, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    release.publish(variant())
    for text in ("", "{}", '{"order": "x"}', "[]"):
        kept.write_text(text)
        with pytest.raises(ConfigurationError, match="damaged"):
            async with run_policy({"token": {**release.section, "state_file": str(kept)}}):
                pass


@pytest.mark.parametrize(("place", "fault"), [(".", "a readable file"), ("absent/kept.json", "cannot be written")])
async def test_a_state_file_that_cannot_be_used_is_an_error_at_start(
    run_policy: Any3, release: Release, variant: Any3, tmp_path: Path, place: str, fault: str
) -> None:
    release.publish(variant())
    with pytest.raises(ConfigurationError, match=fault):
        async with run_policy({"token": {**release.section, "state_file": str(tmp_path / place)}}):
            pass


async def test_a_bundle_without_order_needs_its_digest_pinned(run_policy: Any3, release: Release, variant: Any3) -> None:  # fmt: skip
    bundle = variant(order=None)
    release.publish(bundle)
    with pytest.raises(ConfigurationError, match="no order number") as refused:
        async with run_policy({"token": release.section}):
            pass
    assert bundle.digest in refused.value.remedy
    async with run_policy({"token": {**release.section, "digest": bundle.digest}}) as service:
        assert service.token.revision == "variant"


async def test_a_packaged_bundle_is_as_old_as_its_package(
    run_policy: Any3, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever goes back to an older package goes back to its policies, with or without keys for bundles from outside."""
    monkeypatch.setattr("zeta_guard.policy.activation._highest", {"package:demo": (9, "0" * 64)})
    for keys in (dict[str, str](), release.section["verification_keys"]):
        section = {"engine": "embedded", "bundle": "package:demo", "verification_keys": keys}
        async with run_policy({"token": section}) as service:
            assert service.token.revision == "demo-1"


async def test_an_order_that_nobody_signed_binds_nobody(
    run_policy: Any3, release: Release, variant: Any3, pack: Any3
) -> None:
    """Otherwise whoever can write the file could shut out every later release."""
    section = {"engine": "embedded", "bundle": str(release.path), "unsafe_unsigned": True}
    for order in (9, 1, None):
        release.path.write_bytes(pack(variant(revision=f"order-{order}", order=order)))
        async with run_policy({"token": section}) as service:
            assert service.token.revision == f"order-{order}"


async def test_another_bundle_than_the_pinned_one_is_refused(run_policy: Any3, release: Release, variant: Any3) -> None:
    release.publish(variant())
    with pytest.raises(ConfigurationError, match="not the pinned one"):
        async with run_policy({"token": {**release.section, "digest": "0" * 64}}):
            pass


async def test_a_bundle_without_the_asked_entry_point_is_refused(run_policy: Any3) -> None:
    section = {"engine": "embedded", "bundle": "package:demo", "decision": "policies/other/decision"}
    with pytest.raises(ConfigurationError, match="no entry point 'policies/other/decision'"):
        async with run_policy({"token": section}):
            pass


async def test_an_address_list_that_would_block_nobody_is_refused(run_policy: Any3, release: Release, variant: Any3) -> None:  # fmt: skip
    release.publish(variant(lambda data: data["addresses"].update(blocked={"192.0.2.7/24": "tor"})))
    with pytest.raises(ConfigurationError, match=r"should be '192\.0\.2\.0/24'"):
        async with run_policy({"token": release.section}):
            pass


async def test_a_list_of_institutions_that_would_block_nobody_is_refused(run_policy: Any3, release: Release, variant: Any3) -> None:  # fmt: skip
    release.publish(variant(lambda data: data["users"].update(blocked={"1-2012345678 ": "stolen"})))
    with pytest.raises(ConfigurationError, match="no Telematik-ID"):
        async with run_policy({"token": release.section}):
            pass


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
async def test_data_that_the_engine_cannot_hold_are_refused(
    run_policy: Any3, release: Release, variant: Any3, pack: Any3, value: object
) -> None:
    release.publish(variant(lambda data: data["lifetimes"].update(other=value)))
    with pytest.raises(ConfigurationError, match="beyond 64 bits"):
        async with run_policy({"token": release.section}):
            pass


async def test_a_folder_with_a_built_bundle_is_a_source(run_policy: Any3, tmp_path: Path, demo: Bundle) -> None:
    for name, content in demo.files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    section = {"engine": "embedded", "bundle": str(tmp_path / "folder"), "unsafe_unsigned": True}
    async with run_policy({"token": section}) as service:
        assert service.token.revision == "demo-1"
        assert not await embedded(service).look()


async def test_a_missing_bundle_is_refused_with_the_command(run_policy: Any3, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="policy build"):
        async with run_policy({"token": {"engine": "embedded", "bundle": str(tmp_path / "none.tar.gz")}}):
            pass


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("action", "denies"), [("keep", False), ("deny", True)])
async def test_a_bundle_whose_source_is_away_too_long(
    run_policy: Any3, practice: Any3, release: Release, variant: Any3, action: str, denies: bool
) -> None:
    release.publish(variant())
    clock = Clock()
    section = {**release.section, "max_age": 60, "max_age_action": action}
    async with run_policy({"token": section}, clock=clock) as service:
        clock.now += 60
        assert (await service.token.decide("token", practice(), now=clock.now)).allow
        assert await service.readiness() is None
        clock.now += 1
        assert "not reached" in (await service.readiness() or "")
        if denies:
            with pytest.raises(ZetaError) as refused:
                await service.token.decide("token", practice(), now=clock.now)
            assert refused.value.status == 503
        else:
            assert (await service.token.decide("token", practice(), now=clock.now)).allow
        await embedded(service).look()
        assert (await service.token.decide("token", practice(), now=clock.now)).allow


async def test_a_kept_bundle_is_as_old_after_a_restart_as_before(
    run_policy: Any3, practice: Any3, release: Release, variant: Any3, tmp_path: Path
) -> None:
    release.publish(variant(order=5))
    clock = Clock()
    section = {**release.section, "state_file": str(tmp_path / "kept.json"), "max_age": 60, "max_age_action": "deny"}
    async with run_policy({"token": section}, clock=clock):
        pass
    release.path.write_bytes(b"damaged")
    clock.now += 60
    async with run_policy({"token": section}, clock=clock) as service:
        assert (await service.token.decide("token", practice(), now=clock.now)).allow
        clock.now += 1
        with pytest.raises(ZetaError) as refused:
            await service.token.decide("token", practice(), now=clock.now)
        assert refused.value.status == 503
        assert "not reached" in (await service.readiness() or "")


async def test_a_url_is_fetched_by_its_etag(
    run_policy: Any3, practice: Any3, release: Release, variant: Any3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS in production; the loopback server here speaks plain HTTP, so the source is made directly."""
    from zeta_guard.config.outbound import Outbound as OutboundConfig
    from zeta_guard.http.outbound import Outbound
    from zeta_guard.policy.source import UrlSource

    seen: list[str | None] = []

    async def serve(request: web.Request) -> web.Response:
        seen.append(request.headers.get("If-None-Match"))
        etag = f'"{hash(release.path.read_bytes())}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304)
        return web.Response(body=release.path.read_bytes(), headers={"ETag": etag})

    app = web.Application()
    app.router.add_get("/policy.tar.gz", serve)
    async with TestServer(app) as server:
        outbound = Outbound(OutboundConfig())
        source = UrlSource(str(server.make_url("/policy.tar.gz")), outbound, None)
        release.publish(variant(order=1))
        first = await source.fetch()
        assert first is not None
        assert await source.fetch() is None
        release.publish(variant(order=2))
        assert await source.fetch() is not None
        release.path.write_bytes(b"damaged")
        for _ in range(2):
            with pytest.raises(BundleError):
                await source.fetch()
        missing = UrlSource(str(server.make_url("/other")), outbound, None)
        with pytest.raises(BundleError, match="404"):
            await missing.fetch()
        await outbound.close()
    assert seen[0] is None
    assert seen[1] is not None


async def test_the_source_is_looked_at_by_itself(
    run_policy: Any3, release: Release, variant: Any3, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.publish(variant(revision="one", order=1))
    async with run_policy({"token": {**release.section, "poll": 1}}) as service:
        release.publish(variant(revision="two", order=2))
        async with asyncio.timeout(20):
            while service.token.revision != "two":  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def test_paths_count_from_the_folder_of_the_configuration(tmp_path: Path) -> None:
    from zeta_guard.config.policy import EmbeddedEngine as Section

    context = {"directory": tmp_path}
    for given, expected in (
        ("policy.tar.gz", str(tmp_path / "policy.tar.gz")),
        ("/x/policy.tar.gz", "/x/policy.tar.gz"),
        ("package:demo", "package:demo"),
        ("https://host/policy.tar.gz", "https://host/policy.tar.gz"),
    ):
        assert Section.model_validate({"bundle": given}, context=context).bundle == expected


def test_manifests_of_this_project_are_complete(demo: Bundle) -> None:
    manifest = demo.manifest
    assert manifest.order == 1
    assert set(manifest.entrypoints) == {"policies/zeta/authz/decision", "policies/zeta/request/decision"}
    assert json.loads(demo.files[".manifest"])["rego_version"] == 1
    lines = {reason.code: demo.files[reason.file].decode().splitlines()[reason.line - 1] for reason in manifest.reasons}
    assert all(f'"{code}"' in line for code, line in lines.items())
    assert all(reason.description for reason in manifest.reasons)
