"""Fuzzing of the frame decoder; inputs per run are the `max_examples` below."""

from __future__ import annotations

import time
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearth_runtime import frames

FRAMES = st.lists(
    st.tuples(
        st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=200)
    ),
    max_size=8,
)


def _encode(wanted):
    return b"".join(
        frames.frame(kind, call, payload, flags) for kind, flags, call, payload in wanted
    )


def _feed(stream, cuts):
    decoder = frames.Decoder()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    found = []
    for start, end in pairwise(edges):
        found += decoder.feed(stream[start:end])
    return found


@settings(max_examples=2000, deadline=None)
@given(wanted=FRAMES, cuts=st.lists(st.integers(0, 4000), max_size=30))
def test_any_split_of_a_stream_gives_the_same_frames(wanted, cuts):
    assert _feed(_encode(wanted), cuts) == wanted


@settings(max_examples=300, deadline=None)
@given(wanted=FRAMES)
def test_byte_by_byte_gives_the_same_frames(wanted):
    stream = _encode(wanted)
    assert _feed(stream, range(len(stream))) == wanted


@settings(max_examples=5000, deadline=None)
@given(pieces=st.lists(st.binary(max_size=64), max_size=20))
def test_garbage_raises_nothing_but_frame_error(pieces):
    decoder = frames.Decoder(limit=100)
    try:
        for piece in pieces:
            for _kind, _flags, _call, payload in decoder.feed(piece):
                assert len(payload) <= 100
    except frames.FrameError:
        pass


@settings(max_examples=5000, deadline=None)
@given(payload=st.binary(max_size=80))
def test_a_garbage_payload_raises_nothing_but_frame_error(payload):
    for parse in (frames.parse_call, frames.parse_reply):
        try:
            parts = parse(payload)
        except frames.FrameError:
            continue
        assert sum(len(part) for part in parts if isinstance(part, bytes)) <= len(payload)


@settings(max_examples=500, deadline=None)
@given(
    deadline=st.floats(allow_nan=False),
    parts=st.tuples(*[st.binary(max_size=255)] * 5),
    body=st.binary(max_size=300),
)
def test_a_call_comes_out_as_it_went_in(deadline, parts, body):
    whole = frames.call_frame(7, deadline, *parts, body)
    [(kind, flags, call, payload)] = frames.Decoder().feed(whole)
    assert (kind, flags, call) == (frames.CALL, 0, 7)
    assert frames.parse_call(payload) == (deadline, *parts, body)


@pytest.mark.parametrize("cut", [5, 12, 20])
def test_a_payload_over_the_limit_is_refused_as_soon_as_it_is_announced(cut):
    decoder = frames.Decoder(limit=10)
    stream = frames.frame(frames.REPLY, 1, b"x" * 11)
    with pytest.raises(frames.FrameTooLarge):
        decoder.feed(stream[:cut]) + decoder.feed(stream[cut:])
    assert len(frames.Decoder(limit=11).feed(stream)) == 1


def test_reserved_bits_are_refused():
    for stream in (frames.HEADER.pack(0, 1, 0, 1, 0), frames.HEADER.pack(4, 1, 0, 1, 0) + b"1"):
        with pytest.raises(frames.FrameError):
            frames.Decoder().feed(stream)


def test_a_large_payload_in_small_pieces_takes_linear_time_and_little_memory():
    def seconds(size):
        stream = frames.frame(frames.REPLY, 1, b"x" * size)
        decoder = frames.Decoder()
        started = time.process_time()
        found = [
            frame
            for at in range(0, len(stream), 50)
            for frame in decoder.feed(stream[at : at + 50])
        ]
        assert len(found[0][3]) == size
        return time.process_time() - started

    small, large = min(seconds(1 << 20) for _ in range(3)), seconds(16 << 20)
    assert large < 16 * small * 5, "quadratic would be 16 times that"

    stream = frames.frame(frames.REPLY, 1, b"x" * (4 << 20))
    decoder = frames.Decoder()
    tracemalloc.start()
    for at in range(0, len(stream) - 50, 50):
        decoder.feed(stream[at : at + 50])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20
