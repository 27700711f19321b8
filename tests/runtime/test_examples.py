"""Each example folder and each marked block of docs/functions.md does what it says."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/demo.json"))
BLOCK = re.compile(r"```python (handler|script)\n(.*?)```\n((?:<!-- .*? -->\n)+)", re.DOTALL)
EXPECTATION = re.compile(r"<!-- (.*?) -> (.*?) -->")
BLOCKS = BLOCK.findall((ROOT / "docs" / "functions.md").read_text())
SETTINGS = {
    "greet-script": {"contract": "script", "entry": "main.py"},
    "async": {"instance_concurrency": 8},
    "multi-file": {
        "entry": "main.py",
        "handler": "main.checkout",
        "environment": {"CURRENCY": "EUR"},
    },
}


def _body(request):
    if "json" in request:
        return json.dumps(request["json"]).encode()
    return base64.b64decode(request.get("body_base64", ""))


def _call(host, request):
    target = urlsplit(request.get("path", "/"))
    method = request.get("method", "POST")
    return host.call(_body(request), method=method, path=target.path, query=target.query)


def _check(answer, expected):
    assert answer.error == {}
    assert answer.status == expected["status"]
    if "json" in expected:
        assert answer.json == expected["json"]
    elif "text" in expected:
        assert answer.body == expected["text"].encode()
    else:
        assert answer.body == base64.b64decode(expected["body_base64"])


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_an_example_answers_as_its_demo_file_expects(start, folder):
    demo = json.loads((folder / "demo.json").read_text())
    host = start(root=folder, **SETTINGS.get(folder.name, {}))
    host.ready()
    if SETTINGS.get(folder.name, {}).get("contract") == "script":
        host.start_call(_body(demo["request"]))
        assert host.wait() == 0
        assert json.loads(host.take_output()[0]) == demo["expect"]["json"]
    else:
        _check(_call(host, demo["request"]), demo["expect"])


@pytest.mark.parametrize(
    "block", BLOCKS, ids=[f"{number}-{block[0]}" for number, block in enumerate(BLOCKS)]
)
def test_a_block_of_the_documentation_does_what_it_says(start, block):
    contract, source, comments = block
    expectations = EXPECTATION.findall(comments)
    assert expectations
    for request, expected in ((json.loads(a), json.loads(b)) for a, b in expectations):
        host = start(source, contract=contract)
        host.ready()
        if contract == "script":
            host.start_call(_body(request))
            assert (host.wait(), host.take_output()[0]) == (
                expected["exit_code"],
                expected["stdout"],
            )
        else:
            answer = _call(host, request)
            _check(answer, expected)
            assert host.take_output() == (expected.get("stdout", ""), expected.get("stderr", ""))


def test_every_python_block_of_the_documentation_is_run():
    text = (ROOT / "docs" / "functions.md").read_text()
    assert len(BLOCKS) == text.count("```python") >= 7
    assert len(EXAMPLES) >= 6
