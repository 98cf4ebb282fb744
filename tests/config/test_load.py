"""Reading the file: YAML, paths, and every mistake at once in an operator's words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.config.guard import GuardConfig
from zeta_guard.config.load import LARGEST_FILE, load_config, parse_document, read_document, validate_document
from zeta_guard.errors import ConfigurationError, ConfigurationErrors

Document = dict[str, Any]
Refusals = Callable[[Document], list[ConfigurationError]]


def put(document: Document, path: str, value: object) -> Document:
    """Set ``a.b.0.c``."""
    inner: Any = document
    parts = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parts[:-1]:
        inner = inner.setdefault(part, {}) if isinstance(inner, dict) else inner[part]
    inner[parts[-1]] = value
    return document


def test_valid_file_is_read_and_its_paths_count_from_it(document: Document, tmp_path: Path) -> None:
    (tmp_path / "guard.yaml").write_text(yaml.safe_dump(put(document, "audit.directory", "/var/audit")))
    config = load_config(tmp_path / "guard.yaml")
    assert config.secret_files == (tmp_path / "keys/secret",)
    assert config.trust.directory == tmp_path / "trust"
    assert config.audit.directory == Path("/var/audit")
    assert config.issuer == "https://guard.example.de"


@pytest.mark.parametrize(
    ("path", "value", "named", "seen", "expected"),
    [
        ("gateway.routes.0.prefix", "vsd", "gateway.routes[0].prefix", '"vsd"', "^/"),
        ("listen.port", 70000, "listen.port", "70000", "65535"),
        ("listen.port", "many", "listen.port", '"many"', "a whole number"),
        ("store", {"url": "redis://x"}, "store.kind", "missing", "memory or redis"),
        ("store", {"kind": "sqlite"}, "store.kind", '"sqlite"', "memory or redis"),
        ("policy.token", {"engine": "rego"}, "policy.token.engine", '"rego"', "embedded or opa"),
        ("policy.token", {"engine": "opa"}, "policy.token.url", "missing", "Base URL"),
        ("gateway.routes.0.methods", "GET", "gateway.routes[0].methods", '"GET"', "a list"),
        ("gateway.routes.0.popp", {"max_age": "year"}, "gateway.routes[0].popp.max_age", '"year"', "or 'quarter'"),
        ("gateway.routes.0.upstreams", [], "gateway.routes[0].upstreams", "a list of 0", "at least 1 entry"),
        ("gateway.routes.0", "/vsd", "gateway.routes[0]", '"/vsd"', "a mapping"),
        ("rate_limits.register", {"per_minute": 0, "burst": 1}, "rate_limits.register.per_minute", "0", "1"),
        (
            "rate_limits.networks",
            {"10.0.0.0/8": {"per_minute": 1}},
            "rate_limits.networks.10.0.0.0/8.burst",
            "missing",
            "Size of the bucket",
        ),
        ("telemetry.log_level", "loud", "telemetry.log_level", '"loud"', "'debug'"),
        ("trust.ocsp.private_addresses", "perhaps", "trust.ocsp.private_addresses", '"perhaps"', "true or false"),
        ("trust.tsl", {"file": "x", "anchors": ["y"]}, "trust", "a mapping of 3", "exactly one of"),
    ],
)
def test_each_mistake_names_path_value_and_what_is_allowed(
    document: Document, refusals: Refusals, path: str, value: object, named: str, seen: str, expected: str
) -> None:
    errors = {error.path: error for error in refusals(put(document, path, value))}
    assert list(errors) == [named]
    assert errors[named].seen == seen
    assert expected in errors[named].expected


def test_all_mistakes_are_named_at_once(document: Document, refusals: Refusals) -> None:
    put(document, "listen.port", -1)
    put(document, "gateway.routes.0.upstreams.0.url", "ftp://x")
    del document["secret_files"]
    assert [error.path for error in refusals(document)] == [
        "listen.port",
        "secret_files",
        "gateway.routes[0].upstreams[0].url",
    ]


def test_unknown_key_is_an_error_with_the_nearest_known_one(document: Document, refusals: Refusals) -> None:
    (error,) = refusals(put(document, "gateway.routes.0.upstreems", []))
    assert (error.path, error.seen) == ("gateway.routes[0].upstreems", "unknown key")
    assert error.remedy == "Did you mean 'upstreams'?"


def test_unknown_key_of_a_tagged_section_lists_that_section_only(document: Document, refusals: Refusals) -> None:
    (error,) = refusals(put(document, "policy.token.token_file", "x"))
    assert error.path == "policy.token.token_file"
    assert "bundle" in error.expected
    assert "url" not in error.expected.split(", ")


@pytest.mark.parametrize(
    ("path", "value", "secret"),
    [
        ("gateway.routes.0.upstreams.0.url", "http://user:hunter2@host", "hunter2"),
        ("public_url", "https://hunter2@host", "hunter2"),
        ("store", {"kind": "redis", "url": "redis://x", "password": "hunter2"}, "hunter2"),
        ("policy.token", {"engine": "opa", "url": "http://x", "token": "hunter2"}, "hunter2"),
        ("telemetry.traces.otlp_url", "https://user:hunter2@host/v1", "hunter2"),
    ],
)
def test_secrets_never_stand_in_an_error(
    document: Document, refusals: Refusals, path: str, value: object, secret: str
) -> None:
    assert all(secret not in str(error) for error in refusals(put(document, path, value)))


def test_key_that_stands_twice_is_an_error_with_path_and_lines() -> None:
    text = "listen:\n  port: 1\n  port: 2\ngateway:\n  routes:\n    - prefix: /a\n      prefix: /b\n"
    with pytest.raises(ConfigurationErrors) as refused:
        parse_document(text, name="guard.yaml")
    assert [(error.path, error.seen) for error in refused.value.errors] == [
        ("listen.port", "stands twice (lines 2 and 3)"),
        ("gateway.routes[0].prefix", "stands twice (lines 6 and 7)"),
    ]


def test_anchors_and_merge_keys_are_read() -> None:
    text = "a: &a {x: 1}\nb:\n  <<: *a\n  y: 2\nc: *a\n"
    assert parse_document(text, name="f") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}


def test_too_many_aliases_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="aliases"):
        parse_document("a: &a [1]\nb: [" + ", ".join(["*a"] * 1001) + "]\n", name="f")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("- a\n- b\n", "a list"),
        ("just words", "a str"),
        ("a: [1, 2\nb: 3\n", "expected"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("a: \x07", "no valid YAML"),
        ("a: 2026-99-99\n", "no valid YAML"),
        ("[" * 3000, "no valid YAML"),
        ("a: 1\n---\nb: 2\n", "but found another document"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_document(text, name="guard.yaml")
    assert refused.value.path.startswith("guard.yaml")
    assert said in refused.value.seen


def test_missing_unreadable_and_huge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="zeta-guard init"):
        read_document(tmp_path / "absent.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_document(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        read_document(tmp_path / "latin.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (LARGEST_FILE + 1))
    with pytest.raises(ConfigurationError, match="4 MiB"):
        read_document(tmp_path / "huge.yaml")


@given(st.text(max_size=200))
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    with contextlib.suppress(ConfigurationError, ConfigurationErrors):
        assert isinstance(parse_document(text, name="f"), dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*GuardConfig.model_fields, "other"]), JSON, max_size=8))
def test_no_document_makes_the_validation_fail_otherwise(document: Document) -> None:
    with pytest.raises(ConfigurationErrors) as refused:
        validate_document(document, directory=Path("/nowhere"))
    assert all(error.path and error.seen and error.expected for error in refused.value.errors)
