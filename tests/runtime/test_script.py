# ruff: noqa: E501 - tables and the sources of functions read better unbroken
from __future__ import annotations

import json
from pathlib import Path

import pytest

SPEC_SAMPLE = """\
#!/usr/bin/env python3
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
"""  # noqa: W293 - as the specification prints it


@pytest.fixture
def run(start, tmp_path):
    """Run a script to its end and return (exit code, stdout, stderr)."""

    def run(source, body=b"", *, entry="handler.py", **init):
        temporary = tmp_path / "tmp"
        temporary.mkdir(exist_ok=True)
        init.setdefault("environment", {"TMPDIR": str(temporary)})
        host = start(source, entry=entry, contract="script", **init)
        host.ready()
        host.start_call(body)
        return (host.wait(), *host.take_output())

    return run


def test_the_sample_of_the_specification_runs_as_printed(run):
    example = Path(__file__).resolve().parents[2] / "examples" / "greet-script" / "main.py"
    assert example.read_text() == SPEC_SAMPLE
    assert run(SPEC_SAMPLE, b'{"name": "Container"}') == (
        0,
        '{"message": "Hello, Container!"}\n',
        "",
    )
    assert run(SPEC_SAMPLE, b"") == (0, '{"message": "Hello, World!"}\n', "")


SHOW = """
    import json, os, sys
    data = sys.stdin.buffer.read()
    path = os.environ.get("FUNCTION_PAYLOAD_FILE")
    print(json.dumps({
        "variable": os.environ.get("FUNCTION_PAYLOAD"), "stdin": len(data), "ascii": ascii(data[:20]),
        "file": path and open(path, "rb").read() == data, "call": os.environ["HEARTH_CALL_ID"],
    }))
"""


@pytest.mark.parametrize(
    ("body", "variable", "in_file"),
    [
        (b"", "{}", None),
        (b'{"a": "\xc3\xbc"}', '{"a": "ü"}', None),
        (b"x" * (100 << 10), "x" * (100 << 10), None),
        (b"x" * ((100 << 10) + 1), None, True),
        (b"x" * 5_000_000, None, True),
        (b"nul \0 byte", None, True),
    ],
)
def test_the_payload_is_on_stdin_and_in_a_variable_or_a_file(run, body, variable, in_file):
    code, stdout, _ = run(SHOW, body)
    shown = json.loads(stdout)
    assert (code, shown["variable"], shown["file"], shown["call"]) == (0, variable, in_file, "id-1")
    assert shown["stdin"] == len(body or b"{}")


def test_a_payload_that_is_not_text_arrives_byte_for_byte(run):
    source = "import os, sys\nassert os.environb[b'FUNCTION_PAYLOAD'] == sys.stdin.buffer.read() == b'\\xff\\xfe'\n"
    assert run(source, b"\xff\xfe") == (0, "", "")


@pytest.mark.parametrize(
    ("source", "code", "stdout", "stderr"),
    [
        ("import sys\nprint('out')\nsys.exit(3)\n", 3, "out\n", ""),
        ("exit(4)\n", 4, "", ""),
        ("raise SystemExit\n", 0, "", ""),
        ("import sys\nsys.exit('sorry')\n", 1, "", "sorry\n"),
        ("import sys\nsys.exit(-1)\n", 255, "", ""),
        ("import os\nprint('kept')\nos._exit(6)\n", 6, "kept\n", ""),
        ("import os\nos.kill(os.getpid(), 15)\n", -15, "", ""),
        ("raise KeyboardInterrupt\n", -2, "", "KeyboardInterrupt\n"),
        ("import os\ntry:\n    os.kill(os.getpid(), 2)\nexcept KeyboardInterrupt:\n    print('caught')\n", 0, "caught\n", ""),
        ("print('no newline', end='')\n", 0, "no newline", ""),
        ("import atexit\natexit.register(print, 'at exit')\nprint('main')\n", 0, "main\nat exit\n", ""),
        ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(.05), print('thread'))).start()\n", 0, "thread\n", ""),
        ("import os\nout = os.fdopen(1, 'w')\nout.write('own buffer')\n", 0, "own buffer", ""),
        ("import sys\nprint(__name__, __spec__, len(sys.argv), sys.modules['__main__'].__name__)\n", 0, "__main__ None 1 __main__\n", ""),
        ("import sys\nsys.excepthook = lambda *a: print('hooked')\n1 / 0\n", 1, "hooked\n", ""),
        ("import logging\nlogging.getLogger('a').info('hidden')\nlogging.getLogger('a').warning('shown')\n", 0, "", "shown\n"),
    ],
)  # fmt: skip
def test_a_script_ends_as_it_would_under_python_itself(run, source, code, stdout, stderr):
    result = run(source)
    assert result[:2] == (code, stdout)
    assert result[2].endswith(stderr)
    if not stderr:
        assert result[2] == ""


@pytest.mark.parametrize("source", ["def f():\n    1 / 0\nf()\n", "def f(:\n", "import nowhere\n"])
def test_a_traceback_is_the_one_python_prints(run, source, tmp_path):
    import subprocess
    import sys

    code, _, stderr = run(source)
    command = [sys.executable, "-I", str(tmp_path / "handler.py")]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (code, stderr) == (plain.returncode, plain.stderr)


def test_modules_beside_the_script_are_found(run, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "helper.py").write_text("WORD = 'found'\n")
    assert run("import helper\nprint(helper.WORD)\n", entry="bin/tool.py") == (0, "found\n", "")


def test_the_script_does_not_inherit_the_channel(run):
    source = "import os\nprint(sorted(os.listdir('/proc/self/fd'), key=int)[:4])\n"
    assert run(source)[1] == "['0', '1', '2', '3']\n", "3 is the directory being listed"


def test_payload_variables_of_the_user_do_not_stand_in_for_the_payload(run, tmp_path):
    environment = {
        "TMPDIR": str(tmp_path),
        "FUNCTION_PAYLOAD": "forged",
        "FUNCTION_PAYLOAD_FILE": "/forged",
    }
    source = "import os\nprint(os.environ.get('FUNCTION_PAYLOAD'), os.environ.get('FUNCTION_PAYLOAD_FILE'))\n"
    assert run(source, b"real", environment=environment)[1] == "real None\n"
