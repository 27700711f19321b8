"""A node that is none: real HTTP on a real socket, with answers that a test chooses."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest

from hearth.cli import app


class Seen(NamedTuple):
    """One request as it arrived."""

    method: str
    path: str
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Node:
    """Answers by method and path; remembers what it was asked."""

    def __init__(self):
        self.seen = []
        self._answers = {}
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                node.seen.append(Seen(self.command, self.path, headers, self.rfile.read(length)))
                status, headers, body = node.answer_for(self.command, self.path)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any  # noqa: N815 # http.server's names

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    def on(self, method, path, status=200, /, body=b"", headers=None, **fields):
        """Answer `method path` (without its query) with JSON `fields`, or with `body`."""
        content = json.dumps(fields).encode() if fields else body
        self._answers[method, path] = (status, headers or {}, content)

    def fails(self, method, path, status, /, **error):
        error = {
            "type": "InternalError",
            "message": "?",
            "component": "x",
            "request_id": "r",
        } | error
        self.on(method, path, status, error=error)

    def answer_for(self, method, path):
        missing = {"type": "NotFound", "message": "no", "component": "control", "request_id": "r"}
        fallback = (404, {}, json.dumps({"error": missing}).encode())
        return self._answers.get((method, path.partition("?")[0]), fallback)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def node():
    running = Node()
    yield running
    running.close()


class Outcome(NamedTuple):
    """What a command left on the terminal."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def hearth(capsys, monkeypatch, tmp_path, request):
    """Run one command line in an empty folder; against `node` when the test has one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEARTH_KEY", raising=False)
    if "node" in request.fixturenames:
        monkeypatch.setenv("HEARTH_URL", request.getfixturevalue("node").url)
    else:
        monkeypatch.delenv("HEARTH_URL", raising=False)

    def run(*arguments):
        code = app.run(list(map(str, arguments)))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
