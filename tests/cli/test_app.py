import json
import os
import socket
import subprocess
import sys

import pytest

VERBS = [
    "up",
    "new",
    "deploy",
    "invoke",
    "list",
    "describe",
    "logs",
    "invocations",
    "rm",
    "key",
    "doctor",
]
FORBIDDEN = ("starlette", "structlog", "uvloop", "sqlite3", "httptools", "asyncio")


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return done.stdout


def free_url():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_help_names_every_verb(hearth):
    outcome = hearth("--help")
    assert outcome.code == 0
    for verb in VERBS:
        assert f" {verb} " in outcome.out
    places = [outcome.out.index(f"│ {verb} ") for verb in VERBS]
    assert places == sorted(places)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(hearth, verb):
    outcome = hearth(verb, "--help")
    assert outcome.code == 0
    assert f"hearth {verb}" in outcome.out


def test_importing_the_app_loads_nothing_of_the_node():
    loaded = json.loads(
        python("import sys, json, hearth.cli.app; print(json.dumps([*sys.modules]))")
    )
    assert not [name for name in loaded if name.split(".")[0] in FORBIDDEN]
    assert not [
        name for name in loaded if name.startswith("hearth.cli.") and name != "hearth.cli.app"
    ]


def test_a_verb_that_talks_http_loads_nothing_of_the_node():
    code = (
        "import sys, json; from hearth.cli.app import run; "
        f"code = run(['list', '--url', {free_url()!r}]); print(json.dumps([code, *sys.modules]))"
    )
    code, *loaded = json.loads(python(code))
    assert code == 8
    assert not [name for name in loaded if name.split(".")[0] in FORBIDDEN]


def test_importing_the_app_costs_little_more_than_importing_cyclopts():
    code = """
import subprocess, sys, resource
def cpu(module):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
pairs = [(cpu("cyclopts"), cpu("hearth.cli.app")) for _ in range(7)]
print(min(ours for _, ours in pairs) / min(theirs for theirs, _ in pairs))
"""
    assert float(python(code)) <= 1.3


def test_where_no_node_is_one_line_says_how_to_start_one(hearth):
    url = free_url()
    outcome = hearth("list", "--url", url)
    assert outcome.code == 8
    assert outcome.out == ""
    assert (
        outcome.err
        == f"hearth: no node at {url}: start one with `hearth up`, or name it with --url\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frob"], "frob"),
        (["deploy"], "SOURCE"),
        (["list", "--colour"], "--colour"),
        (["list", "-o", "xml"], "xml"),
        (["list", "extra"], "too much: extra (see: hearth list --help)"),
        (["list", "--url", "ftp://x"], "ftp://x"),
        (["up", "--port", "eighty"], "eighty"),
        (["describe", ".."], "'..'"),
        (["logs"], "--id"),
        (["key", "create"], "NAME"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(hearth, arguments, said):
    outcome = hearth(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("hearth: ")
    assert outcome.err.count("\n") == 1
    assert said in outcome.err


def test_a_wrong_setting_stops_up_with_exit_code_2(hearth, tmp_path):
    (tmp_path / "hearth.yaml").write_text("gateway:\n  prot: 80\n")
    outcome = hearth("up")
    assert outcome.code == 2
    assert "gateway.prot (hearth.yaml, line 2); did you mean gateway.port?" in outcome.err


def test_the_reader_of_a_pipe_may_leave(tmp_path):
    command = f"{sys.executable} -m hearth.cli.app new --list | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
