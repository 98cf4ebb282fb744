"""Frame boundaries, whatever pieces the bytes come in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeta_guard.gateway.frame import FrameError, FrameReader, close_frame


def frame(payload: bytes, *, opcode: int = 2, masked: bool = False, fin: bool = True) -> bytes:
    """A frame as RFC 6455 §5.2 wants it."""
    size = len(payload)
    mask = 0x80 if masked else 0
    head = bytes(((0x80 if fin else 0) | opcode,))
    if size < 126:
        head += bytes((mask | size,))
    elif size < 65_536:
        head += bytes((mask | 126,)) + size.to_bytes(2, "big")
    else:
        head += bytes((mask | 127,)) + size.to_bytes(8, "big")
    return head + (b"\x01\x02\x03\x04" if masked else b"") + payload


frames = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 200), st.sampled_from([125, 126, 127, 65_535, 65_536])), st.booleans(), st.booleans()
    ),
    min_size=1,
    max_size=5,
)


@given(frames, st.lists(st.integers(1, 70_000), max_size=20))
def test_boundaries_are_found_in_any_pieces(sizes: list[tuple[int, bool, bool]], cuts: list[int]) -> None:
    whole = [frame(b"x" * size, masked=masked, fin=fin) for size, masked, fin in sizes]
    stream = b"".join(whole)
    ends = {sum(map(len, whole[: count + 1])) for count in range(len(whole))}
    reader = FrameReader()
    position = 0
    for cut in [*cuts, len(stream)]:
        piece = stream[position : position + cut]
        assert reader.consume(piece) == len(piece)
        position += len(piece)
        assert reader.at_boundary == (position in ends | {0})
    assert reader.at_boundary == (position == len(stream))


@given(frames, st.integers(1, 100))
def test_stops_at_the_first_boundary_when_asked(sizes: list[tuple[int, bool, bool]], start: int) -> None:
    whole = [frame(b"x" * size, masked=masked, fin=fin) for size, masked, fin in sizes]
    stream = b"".join(whole)
    start = min(start, len(stream))
    ends = [sum(map(len, whole[: count + 1])) for count in range(len(whole))]
    reader = FrameReader()
    reader.consume(stream[:start])
    expected = next(end for end in [0, *ends] if end >= start) - start
    assert reader.consume(stream[start:], to_boundary=True) == expected
    assert reader.at_boundary


def test_close_is_seen() -> None:
    reader = FrameReader()
    reader.consume(frame(b"x", opcode=1))
    assert not reader.close_seen
    reader.consume(close_frame(1000, "", masked=True))
    assert reader.close_seen


def test_length_with_the_highest_bit_is_no_frame() -> None:
    FrameReader().consume(b"\x82\x7f" + b"\x7f" + b"\xff" * 7)
    with pytest.raises(FrameError):
        FrameReader().consume(b"\x82\x7f" + b"\x80" + b"\x00" * 7)


def test_close_frame_is_a_frame_and_unmasks_to_its_reason() -> None:
    plain = close_frame(1008, "why", masked=False)
    assert plain == b"\x88\x05\x03\xf0why"
    masked = close_frame(1008, "why", masked=True)
    key, hidden = masked[2:6], masked[6:]
    assert masked[:2] == b"\x88\x85"
    assert bytes(byte ^ key[index % 4] for index, byte in enumerate(hidden)) == plain[2:]
    assert len(close_frame(1000, "x" * 500, masked=False)) == 127
