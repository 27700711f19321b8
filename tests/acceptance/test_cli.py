"""Every verb of the command line against a real node; errors are one line and an exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import threading

import pytest

from nodes import HEARTH, SLOW, running_node, wait_until


@pytest.fixture(scope="module")
def folder(node, tmp_path_factory):
    """A function made by `hearth new` and deployed by `hearth deploy`."""
    path = tmp_path_factory.mktemp("cli") / "greeter"
    made = node.hearth("new", str(path))
    assert made.code == 0, made.err
    deployed = node.hearth("deploy", str(path))
    assert deployed.code == 0, deployed.err
    return path


def test_new_makes_what_deploy_takes_and_invoke_calls(node, folder):
    said = node.hearth("invoke", "greeter", "--path", "/?name=you")
    assert (said.code, json.loads(said.out), said.err) == (0, {"message": "Hello, you!"}, "")


def test_new_refuses_what_exists_and_what_is_no_name(node, folder, tmp_path):
    again = node.hearth("new", str(folder))
    assert (again.code, len(again.err.splitlines())) == (5, 1)
    assert node.hearth("new", str(tmp_path / "Not_A_Name")).code == 2


def test_deploy_again_changes_nothing_and_other_content_is_a_new_version(node, name, tmp_path):
    file = tmp_path / f"{name}.py"
    file.write_text("def handle(request):\n    return 1\n")
    first = node.hearth("deploy", str(file), "-o", "json").json
    assert (first["name"], first["number"]) == (name, 1)
    same = node.hearth("deploy", str(file))
    assert same.code == 0
    assert "unchanged" in same.out
    file.write_text("def handle(request):\n    return 2\n")
    assert node.hearth("deploy", str(file), "-o", "json").json["number"] == 2
    assert node.call(name).json == 2


def test_deploy_tells_why_a_function_cannot_be_loaded(node, name, tmp_path):
    file = tmp_path / f"{name}.py"
    file.write_text("import nothing_like_it\ndef handle(request):\n    return 1\n")
    said = node.hearth("deploy", str(file))
    assert said.code == 2
    assert said.err.startswith(f"hearth: {name} could not be loaded: ModuleNotFoundError")
    assert "import nothing_like_it" in said.err, "the traceback of the function follows"
    assert said.out == ""


def test_a_key_without_effect_is_named_at_deploy_and_by_describe(node, name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "handler.py").write_text("def handle(request):\n    return 1\n")
    (folder / "function.yaml").write_text(
        f'function:\n  name: "{name}"\n  runtime: "python"\n  dependencies: ["requests"]\n'
    )
    said = node.hearth("deploy", str(folder))
    assert said.code == 0
    assert "dependencies" in said.err
    described = node.hearth("describe", name)
    assert "dependencies" in described.out
    assert any(
        "dependencies" in w for w in node.hearth("describe", name, "-o", "json").json["warnings"]
    )
    (folder / "function.yaml").write_text(f'function:\n  name: "{name}"\n  flavour: "mint"\n')
    unknown = node.hearth("deploy", str(folder))
    assert (unknown.code, "flavour" in unknown.err) == (2, True)
    assert len(unknown.err.splitlines()) == 1


def test_invoke_sends_json_files_and_standard_input(node, tmp_path):
    node.deploy("mirror", "def handle(request):\n    return request.body\n")
    (tmp_path / "body.bin").write_bytes(bytes(range(256)))
    assert node.hearth("invoke", "mirror", "-d", '{"a": 1}').out == '{"a": 1}'
    from_file = subprocess.run(
        [*HEARTH, "invoke", "mirror", "-f", str(tmp_path / "body.bin"), "--url", node.url],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert from_file.stdout == bytes(range(256))
    assert node.hearth("invoke", "mirror", "-", stdin=b"piped").out == "piped"
    as_json = node.hearth("invoke", "mirror", "-d", "[1]", "-o", "json").json
    assert (as_json["status"], as_json["json"]) == (200, [1])
    assert node.hearth("invoke", "mirror", "-d", "{no json").code == 2


def test_a_call_is_found_by_logs_and_invocations(node, name):
    node.deploy(name, "def handle(request):\n    print('seen', request.text)\n    return 'x'\n")
    call_ids = [node.call(name, text).call_id for text in ("one", "two")]
    logs = node.hearth("logs", name)
    assert [line.split("  ")[1] for line in logs.out.splitlines()] == ["seen one", "seen two"]
    only = node.hearth("logs", "--id", call_ids[0], "-o", "json")
    assert only.json["text"].strip() == "seen one"
    listed = node.hearth("invocations", name, "-o", "json").json["invocations"]
    assert [record["id"] for record in listed] == call_ids[::-1]
    table = node.hearth("invocations", name).out
    assert all(call_id in table for call_id in call_ids)
    assert "succeeded" in table


def test_logs_can_be_followed(node, name):
    node.deploy(name, "def handle(request):\n    print('seen', request.text)\n")
    node.call(name, "before")
    follower = subprocess.Popen(
        [*HEARTH, "logs", name, "-f", "--url", node.url], stdout=subprocess.PIPE, text=True
    )
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(follower.stdout))
    try:
        assert "seen before" in follower.stdout.readline()
        reader.start()
        node.call(name, "after")
        wait_until(lambda: any("seen after" in line for line in lines), "it is followed")
    finally:
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10 * SLOW) == 130
        reader.join()


def test_list_describe_and_rm_agree(node, name):
    node.deploy(name, "def handle(request):\n    return 'x'\n", version="2.0-beta")
    assert any(
        line.split()[:2] == [name, "2.0-beta"] for line in node.hearth("list").out.splitlines()
    )
    names = [function["name"] for function in node.hearth("list", "-o", "json").json["functions"]]
    assert name in names
    described = node.hearth("describe", name)
    assert "contract" in described.out
    assert "isolation_level" in described.out
    removed = node.hearth("rm", name, "-o", "json")
    assert removed.json["name"] == name
    assert node.hearth("describe", name).code == 4
    assert node.call(name).status == 404


def test_doctor_tries_this_host(node):
    said = node.hearth("doctor", "-o", "json")
    rows = said.json
    assert {"mechanism", "ok", "detail", "fix"} == set(rows[0])
    assert said.code == (1 if any(row["ok"] is False for row in rows) else 0)
    assert len(node.hearth("doctor").out.splitlines()) > len(rows)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["describe", "nothing"], 4, "nothing"),
        (["invoke", "nothing"], 4, "nothing"),
        (["logs", "nothing"], 4, "nothing"),
        (["rm", "nothing"], 4, "nothing"),
        (["deploy", "/no/such/place"], 2, "/no/such/place"),
        (["frobnicate"], 2, "frobnicate"),
        (["invoke"], 2, "NAME"),
        (["list", "--flavour"], 2, "--flavour"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(node, arguments, code, said):
    run = node.hearth(*arguments)
    assert run.code == code, run.err
    (line,) = run.err.splitlines()
    assert line.startswith("hearth: ")
    assert said.lower() in line.lower()
    assert run.out == ""


def test_the_exit_code_of_invoke_tells_what_became_of_the_call(node, name):
    node.deploy(
        name,
        "import os, time\n"
        "def handle(request):\n"
        "    if request.text == 'late':\n        time.sleep(60)\n"
        "    if request.text == 'die':\n        os._exit(3)\n"
        "    return 'x', 500\n",
        timeout="2s",
    )
    late = node.hearth("invoke", name, "-", stdin=b"late")
    assert late.code == 11, late.err
    assert "timeout=2s" in late.err
    died = node.hearth("invoke", name, "-", stdin=b"die")
    assert died.code == 10, died.err
    assert "exit code 3" in died.err
    said_500 = node.hearth("invoke", name)
    assert (said_500.code, said_500.out) == (10, "x")


def test_no_node_is_told_with_what_to_do(node):
    run = node.hearth("list", HEARTH_URL="http://127.0.0.1:1")
    assert (run.code, len(run.err.splitlines())) == (8, 1)
    assert "hearth up" in run.err


def test_up_names_settings_without_effect_and_refuses_unknown_ones(tmp_path):
    config = tmp_path / "hearth.yaml"
    config.write_text('container:\n  base_image: "python:3.11-slim"\n')
    arguments = ("--config", str(config))
    with running_node(tmp_path / "data", arguments=arguments) as node:
        (warned,) = [line for line in node.lines() if line.get("level") == "warning"]
        assert "container.base_image" in warned["detail"]
        assert any(
            "container.base_image" in w for w in node.request("GET", "/info").json["warnings"]
        )
    config.write_text("gateway:\n  prot: 1\n")
    refused = subprocess.run(
        [*HEARTH, "up", "--data-dir", str(tmp_path / "data"), *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "gateway.prot" in line
    assert "line 2" in line


def test_a_second_node_on_the_same_data_directory_or_port_is_refused(own_node, tmp_path):
    node = own_node()
    for arguments in (
        ["--port", "0", "--data-dir", str(node.data_dir)],
        ["--port", str(node.port), "--data-dir", str(tmp_path / "other")],
    ):
        run = subprocess.run(
            [*HEARTH, "up", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode == 2, run.stderr
        assert run.stderr.splitlines()[-1].startswith("hearth: ")
        assert "Traceback" not in run.stderr
    assert node.ready()


@pytest.mark.parametrize("data_dir", ["a-file", "a-file/below"])
def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path, data_dir):
    (tmp_path / "a-file").write_text("")
    run = subprocess.run(
        [*HEARTH, "up", "--port", "0", "--data-dir", str(tmp_path / data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith(f"hearth: data_dir {tmp_path / data_dir} cannot be made: ")
    assert run.stderr.count("\n") == 1
