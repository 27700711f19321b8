"""Who may reach what: functions and the network, callers and the control API."""

from __future__ import annotations

import socket
import subprocess

from nodes import HEARTH, declaration

DIAL = """
import json, urllib.error, urllib.request
def handle(request):
    asked = request.json
    wanted = urllib.request.Request(asked["url"], asked.get("data", "").encode() or None,
                                    {"Content-Type": "application/json"}, method=asked["method"])
    try:
        with urllib.request.urlopen(wanted, timeout=5) as answer:
            return {"status": answer.status, "body": answer.read().decode()}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": error.read().decode()}
    except OSError as error:
        return {"error": str(error)}
"""


def dial(node, name, path, method="GET", **more):
    answer = node.call(name, {"url": f"{node.url}{path}", "method": method, **more})
    assert answer.status == 200, answer.body
    return answer.json


def test_network_none_does_not_reach_the_node(node, name):
    node.deploy(name, DIAL)
    assert "error" in dial(node, name, "/healthz")


def test_network_host_reaches_functions_but_not_the_control_api(node, name):
    node.deploy(name, DIAL, network="host", isolation_level="lightweight")
    node.deploy(f"{name}-other", "def handle(request):\n    return 'reached'\n")
    assert dial(node, name, "/healthz")["status"] == 200, "the control: it does reach the port"
    assert dial(node, name, f"/function/{name}-other")["body"] == "reached"
    for method, path in (
        ("GET", "/functions"),
        ("DELETE", f"/functions/{name}-other"),
        ("POST", "/keys"),
        ("GET", "/metrics"),
        ("GET", "/invocations"),
    ):
        answer = dial(node, name, path, method, data='{"name": "x", "scopes": ["admin"]}')
        assert answer["status"] == 403, (method, path, answer)
    assert node.call(f"{name}-other").body == b"reached"


def test_network_host_needs_lightweight(node, name):
    answer = node.request("POST", "/functions", declaration(name, DIAL, network="host"))
    assert answer.status in (400, 503), answer.body
    assert "lightweight" in answer.error["message"]


def test_without_a_key_only_loopback_is_served(tmp_path):
    run = subprocess.run(
        [*HEARTH, "up", "--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path / "data")],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    (line,) = [x for x in run.stderr.decode().splitlines() if x.startswith("hearth: ")]
    assert "key" in line
    assert "Traceback" not in run.stderr.decode()


def test_keys_open_what_their_scope_says(own_node):
    node = own_node()
    node.deploy("hello", "def handle(request):\n    return 1 / 0 if request.text else 'hi'\n")
    made = node.hearth("key", "create", "root", "--scope", "admin")
    assert made.code == 0, made.err
    assert node.request("GET", "/functions").status == 401
    assert node.call("hello").status == 401
    assert node.request("GET", "/healthz").status == 200
    node.key = made.out.strip()
    admin = node.key
    assert node.call("hello").body == b"hi"
    caller = node.hearth("key", "create", "caller").out.strip()
    node.key = caller
    assert node.call("hello").body == b"hi"
    failed = node.call("hello", "x")
    assert failed.status == 502
    assert "stack" not in failed.error, "not for a key that may only invoke"
    for method, path in (("GET", "/functions"), ("GET", "/keys"), ("DELETE", "/functions/hello")):
        answer = node.request(method, path)
        assert (answer.status, answer.error["type"]) == (403, "Forbidden")
    assert node.hearth("list").code == 3
    node.key = admin
    (found,) = [k for k in node.hearth("key", "list", "-o", "json").json["keys"]
                if k["name"] == "caller"]  # fmt: skip
    assert node.hearth("key", "rm", found["id"]).code == 0
    node.key = caller
    assert node.call("hello").status == 401, "it stops working at once"
    node.key = "hearth_not-a-key"
    assert node.call("hello").status == 401
    node.key = admin
    assert caller.encode() not in b"".join(
        path.read_bytes() for path in node.data_dir.glob("hearth.db*")
    ), "secrets are hashed at rest"
    node.restart()
    assert node.call("hello").body == b"hi"


def test_a_second_listener_then_alone_serves_the_control_api(own_node):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node = own_node(control_listen=f"127.0.0.1:{port}")
    control = node.connect(port)
    source = "def handle(request):\n    return 'hi'\n"
    assert node.request("POST", "/functions", declaration("hello", source)).status == 404
    answer = node.request("POST", "/functions", declaration("hello", source), connection=control)
    assert answer.status == 201
    assert node.call("hello").body == b"hi"
    assert node.request("GET", "/function/hello", connection=control).status == 404
    control.close()
