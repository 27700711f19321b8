"""A node in miniature: a real host process over a real socketpair and pipes."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import hearth_runtime
from hearth_runtime import frames

WAIT_S = 10.0
SOURCES = os.path.dirname(os.path.dirname(hearth_runtime.__file__))
START = """
import sys
sys.path.append(sys.argv[1])
from hearth_runtime import runtime_host
runtime_host.serve(int(sys.argv[2]))
"""


class Answer:
    """What came back for one call."""

    def __init__(self) -> None:
        self.kind = 0
        self.status = 0
        self.headers = ""
        self.body = b""
        self.chunks: list[bytes] = []
        self.error: dict[str, str] = {}
        self.output = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Host:
    """One runtime host, its interpreter started as the zygote's is."""

    def __init__(
        self, root: Path, *, contract: str = "handler", entry: str = "handler.py", **init: Any
    ) -> None:
        self.socket, theirs = socket.socketpair()
        self.stdout_fd, out_w = os.pipe()
        self.stderr_fd, err_w = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", START, SOURCES, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=out_w,
            stderr=err_w,
            pass_fds=[theirs.fileno()],
            cwd=root,
        )
        theirs.close()
        os.close(out_w)
        os.close(err_w)
        self.stdout, self.stderr = b"", b""
        self._decoder = frames.Decoder()
        self._frames: list[tuple[int, int, int, bytes]] = []
        self._call = 0
        init = {
            "contract": contract,
            "entry": entry,
            "root": str(root),
            "function": "demo",
            "version": 3,
        } | init
        self.send(frames.frame(frames.INIT, 0, json.dumps(init).encode()))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ready(self) -> dict[str, Any]:
        kind, _, call, payload = self.frame()
        assert (kind, call) == (frames.READY, 0), payload
        return json.loads(payload)

    def init_failure(self) -> dict[str, Any]:
        kind, _, call, payload = self.frame()
        assert (kind, call) == (frames.INIT_FAILED, 0), payload
        return json.loads(payload)

    def start_call(
        self,
        body: bytes = b"",
        *,
        method: str = "POST",
        path: str = "/",
        query: str = "",
        headers: str = "",
    ) -> int:
        self._call += 1
        self.send(
            frames.call_frame(
                self._call,
                1893456000.5,
                f"id-{self._call}".encode(),
                method.encode(),
                path.encode(),
                query.encode(),
                headers.encode("latin-1"),
                body,
            )
        )
        return self._call

    def call(self, body: bytes = b"", **parts: str) -> Answer:
        number = self.start_call(body, **parts)
        return self.answer(number)

    def answer(self, number: int) -> Answer:
        """Read frames until the last one of call `number`, checking their order."""
        answer = Answer()
        while True:
            kind, flags, call, payload = self.frame()
            assert call == number
            answer.output = bool(flags & frames.OUTPUT)
            if kind in (frames.REPLY, frames.HEAD):
                assert not answer.status
                answer.status, block, answer.body = frames.parse_reply(payload)
                answer.headers = block.decode("latin-1")
            elif kind == frames.CHUNK:
                assert answer.kind == frames.HEAD or answer.chunks
                answer.chunks.append(payload)
                answer.body += payload
            elif kind == frames.ERROR:
                answer.error = json.loads(payload)
            answer.kind = kind
            if kind in (frames.REPLY, frames.END, frames.ERROR):
                if answer.output:
                    self.drain()
                return answer

    def frame(self) -> tuple[int, int, int, bytes]:
        """Return the next frame; raises EOFError when the host has gone."""
        while not self._frames:
            data = self._read_some()
            if not data:
                raise EOFError
            self._frames = self._decoder.feed(data)
        return self._frames.pop(0)

    def _read_some(self) -> bytes:
        """Wait for channel bytes; what is on the pipes meanwhile is taken, as a node does."""
        until = time.monotonic() + WAIT_S
        watched = [self.socket, self.stdout_fd, self.stderr_fd]
        while time.monotonic() < until:
            readable, _, _ = select.select(watched, [], [], WAIT_S)
            if self.socket in readable:
                try:
                    return self.socket.recv(1 << 16)
                except ConnectionResetError:
                    return b""
            for fd in readable:
                if not self._take(fd):
                    watched.remove(fd)
        raise TimeoutError("the host said nothing")

    def _take(self, fd: int, size: int = 1 << 16) -> bytes:
        data = os.read(fd, size)
        if fd == self.stdout_fd:
            self.stdout += data
        else:
            self.stderr += data
        return data

    def drain(self) -> None:
        """Take what the pipes hold now, and nothing that comes meanwhile."""
        fds = (self.stdout_fd, self.stderr_fd)
        for fd, held in [(fd, fcntl.ioctl(fd, termios.FIONREAD, bytes(4))) for fd in fds]:
            if size := int.from_bytes(held, sys.byteorder):
                self._take(fd, size)

    def take_output(self) -> tuple[str, str]:
        """Return and forget what was read from stdout and stderr."""
        taken = self.stdout.decode(), self.stderr.decode()
        self.stdout = self.stderr = b""
        return taken

    def wait(self) -> int:
        """Return the exit code (negative: the signal), all output taken."""
        for fd in (self.stdout_fd, self.stderr_fd):
            while self._wait_readable(fd) and self._take(fd):
                pass
        return self._process.wait(WAIT_S)

    @staticmethod
    def _wait_readable(fd: int) -> bool:
        if not select.select([fd], [], [], WAIT_S)[0]:
            raise TimeoutError("a pipe stayed open")
        return True

    def close(self) -> None:
        self.socket.close()
        self._process.kill()
        self._process.wait()
        os.close(self.stdout_fd)
        os.close(self.stderr_fd)
