import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).with_name("fake_hearth.py")


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The demo driver, with a `hearth` that is none and one example."""
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    command = tmp_path / "hearth"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    command.chmod(0o755)
    example = tmp_path / "examples" / "hello"
    example.mkdir(parents=True)
    (example / "function.yaml").touch()
    expectation = {"request": {"method": "GET"}, "expect": {"status": 200, "json": {"ok": True}}}
    (example / "demo.json").write_text(json.dumps(expectation))
    monkeypatch.setattr(module, "HEARTH", command)
    monkeypatch.setattr(module, "EXAMPLES", tmp_path / "examples")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return module


def test_the_demo_ends_well_when_every_answer_is_right(demo, capsys, tmp_path):
    assert demo.main() == 0
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if line.startswith("hello ")]
    assert row.split()[1:3] == ["200", '{"ok":']
    assert "stopped cleanly" in out
    assert not list(tmp_path.glob("hearth-demo-*"))


def test_the_demo_of_an_ordinary_user_is_lightweight_and_says_so(demo, capsys, monkeypatch):
    monkeypatch.setenv("FAKE_FAULT", "user")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert demo.main() == 0
    assert "isolation_level lightweight" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("wrong", "hello: wrong answer"),
        ("warm", "hello: the first call was not cold"),
        ("exit", "stopped with exit code 3"),
        ("dies", "cannot start: no reason"),
        ("deploy", "deploy hello: hearth: the import failed"),
    ],
)
def test_the_demo_fails_by_name(demo, capsys, monkeypatch, fault, said):
    monkeypatch.setenv("FAKE_FAULT", fault)
    assert demo.main() == 1
    assert said in capsys.readouterr().err


def test_the_demo_fails_when_a_process_is_left(demo, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_FAULT", "child")
    monkeypatch.setattr(demo, "PATIENCE_S", 3)
    try:
        assert demo.main() == 1
        assert "the node's processes to end" in capsys.readouterr().err
    finally:
        os.kill(int((tmp_path / "child.pid").read_text()), signal.SIGKILL)


def test_without_examples_the_demo_fails(demo, capsys, tmp_path):
    (tmp_path / "examples" / "hello" / "function.yaml").unlink()
    assert demo.main() == 1
    assert "no examples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expected", "body", "right"),
    [
        ({"json": {"a": 1}}, b'{"a": 1}', True),
        ({"json": None}, b"", False),
        ({"text": "x\n"}, b"x\n", True),
        ({"text": "x\n"}, b"x", False),
        ({"body_base64": "/w=="}, b"\xff", True),
        ({"body_base64": "/w=="}, b"\xfe", False),
        ({"status": 404, "text": "x"}, b"x", False),
    ],
)
def test_an_answer_is_right_only_if_all_of_it_is(demo, expected, body, right):
    assert (demo.judge(demo.Answer(200, body, False, 0.0), expected) == "") is right
