"""A `hearth` for tests of the demo: one function that says {"ok": true}, one fault of choice."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULT = os.environ.get("FAKE_FAULT", "")
calls = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        headers, body = {}, {"functions": [{"instances": {}}]}
        if self.path.startswith("/function/"):
            body = {"ok": FAULT != "wrong"}
            if not calls and FAULT != "warm":
                headers["X-Cold-Start"] = "1"
            calls.append(self.path)
        content = json.dumps(body).encode()
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


def up(port):
    if FAULT == "dies":
        sys.exit("cannot start: no reason")
    if FAULT == "user" and os.environ.get("HEARTH_PROCESS_ISOLATION_LEVEL") != "lightweight":
        sys.exit("missing: root")
    if FAULT == "child":
        child = subprocess.Popen(["sleep", "60"], start_new_session=True)
        Path("../child.pid").write_text(str(child.pid))
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked.wait()
    server.shutdown()
    sys.exit(3 if FAULT == "exit" else 0)


if sys.argv[1] == "up":
    up(int(sys.argv[sys.argv.index("--port") + 1]))
elif FAULT == "deploy":
    sys.exit("hearth: the import failed")
else:
    print(json.dumps({"name": Path(sys.argv[2]).name, "contract": "handler"}))
