"""The container-execution specification, with its bodies as printed there."""

from __future__ import annotations

import base64
import json
import shutil
import time
from pathlib import Path

import pytest

SAMPLE = """#!/usr/bin/env python3
import json
import os

def main():
    payload_str = os.environ.get('FUNCTION_PAYLOAD', '{}')
    payload = json.loads(payload_str)
    
    name = payload.get('name', 'World')
    result = {'message': f'Hello, {name}!'}
    
    print(json.dumps(result))

if __name__ == '__main__':
    main()
"""  # noqa: W293 - as printed
CODE = base64.b64encode(SAMPLE.encode()).decode()
CREATE = f"""{{
       "name": "my-function",
       "version": "1.0.0",
       "runtime": "python",
       "handler": "main",
       "code": "{CODE}",
       "timeout": "30s",
       "memory_mb": 128,
       "max_concurrency": 10
     }}"""
INVOKE = """{
       "function_id": "<function-id>",
       "payload": {"name": "Container"}
     }"""
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def created(node):
    answer = node.request("POST", "/functions", CREATE, JSON)
    assert answer.status == 201, answer.body
    return answer.json


def test_create_answers_with_id_name_and_version(node, created):
    assert (created["name"], created["version"]) == ("my-function", "1.0.0")
    assert created["contract"] == "script"
    assert created["limits"]["memory_bytes"] == 128 << 20
    again = node.request("POST", "/functions", CREATE, JSON)
    assert (again.status, again.json["id"]) == (200, created["id"])


def test_invoke_answers_with_the_record(node, created):
    answer = node.request("POST", "/invoke", INVOKE.replace("<function-id>", created["id"]), JSON)
    assert answer.status == 200, answer.body
    record = answer.json
    assert record["status"] == "succeeded"
    assert record["result"] == {"message": "Hello, Container!"}
    metrics = record["metrics"]
    assert metrics["duration"] > 1_000_000  # nanoseconds: an interpreter was started
    assert metrics["memory_peak"] > 1 << 20
    assert record["id"] == answer.call_id
    assert record["metrics"]["cold_start"] == ("X-Cold-Start" in answer.headers)
    kept = node.request("GET", f"/invocations/{record['id']}").json
    assert kept["result"] == record["result"]
    assert kept["id"] == record["id"]


def test_put_changes_only_what_is_given(node, name):
    created = node.request("POST", "/functions", CREATE.replace("my-function", name), JSON).json
    path = f"/functions/{created['id']}"
    answer = node.request("PUT", path, '{"timeout": "60s"}', JSON)
    assert (answer.status, answer.json["limits"]["timeout_s"]) == (200, 60)
    answer = node.request("PUT", path, '{"memory_mb": 256}', JSON)
    assert answer.json["limits"]["memory_bytes"] == 256 << 20
    assert (answer.json["limits"]["timeout_s"], answer.json["number"]) == (60, 3)
    body = INVOKE.replace("<function-id>", created["id"])
    record = node.request("POST", "/invoke", body, JSON).json
    assert (record["result"], record["version"]) == ({"message": "Hello, Container!"}, 3)


def test_a_failed_run_says_how_it_exited_and_shows_its_stderr(node, name):
    source = "import sys\nprint('about to fail', file=sys.stderr)\nsys.exit(1)\n"
    node.deploy(name, source)
    answer = node.request("POST", "/invoke", {"function": name, "payload": {}})
    assert answer.status == 502
    error = answer.json["error"]
    assert (error["type"], error["message"]) == ("RuntimeError", "Function exited with code 1")
    assert "about to fail" in error["stack"]
    assert answer.json["status"] == "failed"


def test_a_large_payload_of_a_script_comes_on_stdin_only(node, name):
    source = (
        "import json, os, sys\n"
        "text = sys.stdin.read()\n"
        "print(json.dumps({'stdin': len(text), 'variable': 'FUNCTION_PAYLOAD' in os.environ,"
        " 'file': open(os.environ['FUNCTION_PAYLOAD_FILE']).read() == text}))\n"
    )
    node.deploy(name, source)
    text = json.dumps("x" * 200_000)
    answer = node.call(name, text)
    assert answer.json == {"stdin": len(text), "variable": False, "file": True}


def test_the_handler_contract_answers_with_what_is_returned(node, name):
    node.deploy(
        name,
        "from hearth_runtime import Response\n"
        "async def handle(request):\n"
        "    if request.method == 'DELETE':\n        return None\n"
        "    if request.path == '/teapot':\n        return 'short', 418, {'x-kind': 'stout'}\n"
        "    if request.path == '/page':\n"
        "        return Response('<p>', headers={'content-type': 'text/html'})\n"
        "    return {'json': request.json, 'path': request.path, 'q': request.query['q'],"
        " 'id': request.id, 'header': request.headers['X-Own']}\n",
    )
    answer = node.request("POST", f"/function/{name}/some/path?q=1", {"a": [1]}, {"X-Own": "yes"})
    assert answer.json == {
        "json": {"a": [1]}, "path": "/some/path", "q": "1", "id": answer.call_id, "header": "yes",
    }  # fmt: skip
    teapot = node.call(name, path="/teapot")
    assert (teapot.status, teapot.headers["x-kind"], teapot.body) == (418, "stout", b"short")
    assert node.call(name, path="/page").headers["Content-Type"] == "text/html"
    assert node.request("DELETE", f"/function/{name}").status == 204


@pytest.mark.parametrize("size", [0, 1, 256, 5 << 20])
def test_bytes_stay_bytes(node, size):
    if node.request("GET", "/functions/mirror").status == 404:
        node.deploy("mirror", "def handle(request):\n    return request.body\n")
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    answer = node.call("mirror", body)
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["Content-Type"] == "application/octet-stream"


def test_a_body_over_the_limit_is_refused(own_node):
    node = own_node(gateway_max_body="1Mi")
    node.deploy("mirror", "def handle(request):\n    return request.body\n")
    assert node.call("mirror", b"x" * (1 << 20)).status == 200
    answer = node.call("mirror", b"x" * ((1 << 20) + 1))
    assert (answer.status, answer.error["type"]) == (413, "PayloadTooLarge")


def test_a_streamed_answer_arrives_piece_by_piece(node, name):
    """The first piece is there a second before the other one is made."""
    node.deploy(
        name,
        "import time\n"
        "def handle(request):\n"
        "    yield 'first'\n"
        "    time.sleep(1)\n"
        "    yield 'second at %f' % time.time()\n",
    )
    connection = node.connect()
    connection.request("GET", f"/function/{name}")
    response = connection.getresponse()
    assert response.read1() == b"first"
    seen_at = time.time()
    rest = response.read()
    connection.close()
    assert rest.startswith(b"second")
    assert seen_at < float(rest.split()[-1])


def test_every_answer_says_which_call_it_was_and_how_long_it_took(node, name):
    node.deploy(name, "def handle(request):\n    return 'x'\n")
    answers = [node.call(name) for _ in range(2)]
    for answer in answers:
        assert len(answer.call_id) == 32
        assert int(answer.headers["X-Start-Time"]) > 1e18
        assert 0 < float(answer.headers["X-Duration-Seconds"]) < 30
    assert answers[0].call_id != answers[1].call_id
    missing = node.call("nothing-there")
    assert (missing.status, missing.error["type"]) == (404, "NotFound")
    assert missing.error["request_id"] == missing.call_id


@pytest.mark.parametrize("pack", ["zip", "gztar"])
def test_an_archive_of_several_files_is_a_function(node, name, pack, tmp_path):
    folder = tmp_path / "function"
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "__init__.py").write_text("PRICE = 3\n")
    (folder / "shop" / "tax.txt").write_text("20")
    (folder / "main.py").write_text(
        "from pathlib import Path\nfrom shop import PRICE\n"
        "def checkout(request):\n"
        "    return [PRICE, Path(__file__).with_name('shop').joinpath('tax.txt').read_text()]\n"
    )
    archive = shutil.make_archive(str(tmp_path / "bundle"), pack, folder)
    node.deploy(name, Path(archive).read_bytes(), handler="main.checkout")
    assert node.call(name).json == [3, "20"]


def test_what_happened_is_counted_and_changes_are_audited(node, name):
    node.deploy(name, "def handle(request):\n    return 1 / int(request.text)\n")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    first = node.request("POST", f"/function/{name}", "1", {"traceparent": trace})
    assert node.invocation(first.call_id)["traceparent"] == trace
    for text in ("1", "0"):
        node.call(name, text)
    metrics = node.request("GET", "/metrics").body.decode().splitlines()
    counted = {
        line.split()[1]
        for line in metrics
        if line.startswith("hearth_invocations_total")
        and f'"{name}"' in line
        and '"succeeded"' in line
    }
    assert {float(count) for count in counted} == {2.0}
    entries = node.request("GET", "/audit").json["entries"]
    assert any(e["target"] == name and e["outcome"] == "ok" for e in entries)
