"""Pid 1 of a sandbox: it reaps everybody, tells exactly one end, and survives signals."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct

import pytest

from hearth_runtime import init

BOUND_MS = 10_000

pytestmark = pytest.mark.skipif(
    init.program(os.uname().machine) is None, reason="not written for this machine"
)


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "init"
    path.write_bytes(init.program(os.uname().machine))
    path.chmod(0o111)
    return str(path)


def start(program, child):
    """Run `child` in a process watched by init; return the pid of init and the packet socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(theirs.fileno(), 4)
            os.set_inheritable(4, True)
            watched = os.fork()
            if watched == 0:
                child()
            os.execve(program, ["init", str(watched)], {})
        finally:
            os._exit(70)
    theirs.close()
    return pid, ours


def receive(sock):
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    assert poll.poll(BOUND_MS)
    return sock.recv(64)


@pytest.mark.parametrize("code", [0, 7, 255])
def test_an_exit_code_is_told_exactly(program, code):
    pid, sock = start(program, lambda: os._exit(code))
    assert os.waitstatus_to_exitcode(struct.unpack("=i", receive(sock))[0]) == code
    assert os.waitpid(pid, 0)[1] == 0
    assert sock.recv(64) == b""  # once


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_is_told_exactly(program, number):
    pid, sock = start(program, lambda: os.kill(os.getpid(), number))
    assert os.waitstatus_to_exitcode(struct.unpack("=i", receive(sock))[0]) == -number
    os.waitpid(pid, 0)


def test_the_end_of_another_child_is_not_told(program):
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writing)
            os.dup2(theirs.fileno(), 4)
            os.set_inheritable(4, True)
            if os.fork() == 0:
                os._exit(3)
            watched = os.fork()
            if watched == 0:
                os.read(reading, 1)
                os._exit(4)
            os.execve(program, ["init", str(watched)], {})
        finally:
            os._exit(70)
    theirs.close()
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    assert not poll.poll(200)  # the other one has ended long ago
    os.close(writing)
    assert os.waitstatus_to_exitcode(struct.unpack("=i", receive(ours))[0]) == 4
    os.waitpid(pid, 0)
    os.close(reading)


def test_a_program_is_there_for_the_two_machines_and_no_other():
    assert init.program("x86_64")[18:20] == b"\x3e\x00"
    assert init.program("aarch64")[18:20] == b"\xb7\x00"
    assert init.program("riscv64") is None
