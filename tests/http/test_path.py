from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zeta_guard.errors import ZetaError
from zeta_guard.http.path import canonical_target


@pytest.mark.parametrize(
    ("target", "segments", "query"),
    [
        ("/", (), ""),
        ("/a/b", ("a", "b"), ""),
        ("/a/b/", ("a", "b"), ""),
        ("/a?x=1&y=%2e%2e", ("a",), "x=1&y=%2e%2e"),
        ("/a?", ("a",), ""),
        ("/a?b?c", ("a",), "b?c"),
        ("/.well-known/oauth-protected-resource", (".well-known", "oauth-protected-resource"), ""),
        ("/api/%61dmin", ("api", "admin"), ""),
        ("/api/admin;x=1", ("api", "admin"), ""),
        ("/api//admin", ("api", "admin"), ""),
        ("/;x/admin", ("admin",), ""),
        ("/a%3Bb", ("a",), ""),
        ("/%7C$,%20'x'", ("|$, 'x'",), ""),
        ("/%C3%A4", ("ä",), ""),
        ("/100%25", ("100%",), ""),
        ("/%2541", ("%41",), ""),
        ("/...", ("...",), ""),
        ("/..a/.b", ("..a", ".b"), ""),
        ("/file%2Etxt", ("file.txt",), ""),
        ("//host/x", ("host", "x"), ""),
        ("/a|b", ("a|b",), ""),
    ],
)
def test_accepted_target_keeps_its_bytes_and_has_a_matching_form(
    target: str, segments: tuple[str, ...], query: str
) -> None:
    path, found_query = canonical_target(target)
    assert path.raw == target.partition("?")[0]
    assert path.segments == segments
    assert found_query == query


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "guard.example.de:443",
        "http://guard.example.de/a",
        "https://guard.example.de/a",
        "a/b",
        "?x",
        "/a#fragment",
        "/a?x#fragment",
        "/#",
        "/.",
        "/..",
        "/a/.",
        "/a/..",
        "/a/../b",
        "/a/./b",
        "/%2e",
        "/%2E%2e/x",
        "/.%2e/x",
        "/%2e./x",
        "/..;/x",
        "/..;a=b/x",
        "/.;/x",
        "/%2e%2e;x/y",
        "/..%3b/x",
        "/..%3Bx/y",
        "/a\\b",
        "/a%5cb",
        "/a%5Cb",
        "/a%2fb",
        "/a%2Fb",
        "/a%00",
        "/a%0a",
        "/a%0D%0Ax",
        "/a%1f",
        "/a%7f",
        "/a%C2%85",
        "/a\x00",
        "/a\x7f",
        "/a b",
        "/a\tb",
        "/ä",
        "/\udce4",
        "/a?x=ä",
        "/a?x=\x00",
        "/%",
        "/%2",
        "/%zz",
        "/%u002e",
        "/%ff",
        "/%c0%ae",
        "/%c0%af",
        "/%252e",
        "/%252E%252e/x",
        "/%252f",
        "/%255c",
        "/%2500",
        "/%250a",
        "/%257f",
        "/%25252f",
        "/%2525252f",
        "/%25%32%66",
        "/%25%32%65",
        "/" + "%25" * 1 + "25" * 20,
    ],
)
def test_ambiguous_target_is_refused_and_never_repaired(target: str) -> None:
    with pytest.raises(ZetaError) as caught:
        canonical_target(target)
    assert (caught.value.code, caught.value.status) == ("invalid_request", 400)


def test_refusal_does_not_repeat_the_target() -> None:
    with pytest.raises(ZetaError) as caught:
        canonical_target("/X110411675/%2e%2e")
    assert "X110411675" not in caught.value.description


def test_long_paths_are_not_remembered() -> None:
    from zeta_guard.http import path as module

    before = module._cached.cache_info().currsize
    canonical_target("/" + "a" * 1000)
    assert module._cached.cache_info().currsize == before


@given(st.text(max_size=60))
def test_any_text_is_accepted_unchanged_or_refused(text: str) -> None:
    try:
        path, query = canonical_target(text)
    except ZetaError:
        return
    else:
        assert text == path.raw + (f"?{query}" if "?" in text else "")


_PIECES = st.sampled_from(
    ["/", ".", "..", ";", "%2e", "%2E", "%2f", "%5c", "%25", "%00", "a", "%61", "\\", "%3b", "%C3%A4", "%", "0", "~"]
)


def _fully_decoded(text: str) -> list[str]:
    stages = [text.encode()]
    while (following := unquote_to_bytes(stages[-1])) != stages[-1]:
        stages.append(following)
    return [stage.decode("latin-1") for stage in stages]


@given(st.lists(_PIECES, max_size=12).map(lambda pieces: "/" + "".join(pieces)))
@example("/%25%32%66..")
def test_no_accepted_path_hides_a_dot_segment_or_separator_at_any_depth_of_decoding(target: str) -> None:
    try:
        path, _ = canonical_target(target)
    except ZetaError:
        return
    separators = path.raw.count("/")
    for stage in _fully_decoded(path.raw):
        assert stage.count("/") == separators
        assert "\\" not in stage
        assert "\x00" not in stage
        assert not any(re.fullmatch(r"\.\.?(;.*)?", segment) for segment in stage.split("/"))


_SEGMENT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\;%"), min_size=1, max_size=8)


@given(st.lists(_SEGMENT.filter(lambda text: text not in (".", "..")), max_size=5))
def test_percent_encoded_segments_match_as_what_they_mean(segments: list[str]) -> None:
    path, _ = canonical_target("/" + "/".join(quote(segment, safe="") for segment in segments))
    assert path.segments == tuple(segments)


@given(st.lists(_PIECES, max_size=8).map(lambda pieces: "/" + "".join(pieces)))
def test_matching_form_is_the_same_from_the_fast_and_the_thorough_way(target: str) -> None:
    from zeta_guard.http import path as module

    try:
        path, _ = canonical_target(target)
    except ZetaError:
        return
    assert path.segments == module._matching_form(path.raw)
