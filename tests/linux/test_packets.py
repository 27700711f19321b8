"""Descriptors arrive whole, close-on-exec, or not at all."""

from __future__ import annotations

import array
import os
import socket

import pytest

from hearth_runtime import packets


@pytest.fixture
def ends():
    ours, theirs = packets.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


def test_a_message_and_its_descriptors_arrive_together(ends):
    reader, writer = os.pipe()
    packets.send(ends[0], {"a": [1, "ü"]}, (writer,))
    os.close(writer)
    message, (received,) = packets.receive(ends[1])
    assert message == {"a": [1, "ü"]}
    os.write(received, b"through")
    assert os.read(reader, 9) == b"through"
    os.close(received)
    os.close(reader)


def test_received_descriptors_do_not_leak_into_programs(ends):
    packets.send(ends[0], {}, (0,))
    _, (received,) = packets.receive(ends[1])
    assert not os.get_inheritable(received)
    os.close(received)


def test_too_many_descriptors_are_an_error_and_none_stays_open(ends):
    rights = array.array("i", [0] * (packets.MAX_FDS + 8))
    before = open_descriptors()
    ends[0].sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    with pytest.raises(packets.PacketError):
        packets.receive(ends[1])
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "data", [b"\xff", b"[]", b"{", b"{}{}", b"1", b"x" * (packets.MAX_BYTES + 1)]
)
def test_what_is_not_a_whole_json_object_is_an_error_and_its_descriptors_are_closed(ends, data):
    before = open_descriptors()
    rights = array.array("i", [0])
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    ends[0].sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    with pytest.raises(packets.PacketError):
        packets.receive(ends[1])
    assert open_descriptors() == before


def test_the_end_of_the_stream_is_none(ends):
    ends[0].close()
    assert packets.receive(ends[1]) is None


def test_without_waiting_an_empty_socket_says_so(ends):
    with pytest.raises(BlockingIOError):
        packets.receive(ends[1], wait=False)
