import base64
import io
import os
import tarfile

import pytest

from hearth.build.declaration import Declaration, merge
from hearth.cli.functionfile import KEYS

PRINTED = """\
# Per-function configuration
function:
  name: "my-function"
  runtime: "python3.11"
  execution_mode: "process"  # or "container"
  timeout: "30s"
  memory: "256Mi"
  environment:
    - "API_KEY=secret"
  dependencies:
    - "requests==2.28.0"
    - "numpy==1.21.0"
"""
ANSWER = {
    "name": "my-function",
    "number": 1,
    "label": "",
    "contract": "handler",
    "mode": "process",
    "url": "/function/my-function",
    "warnings": ["dependencies has no effect yet"],
}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "my-function"
    made.mkdir()
    (made / "handler.py").write_text("def handle(request): return 1\n")
    return made


@pytest.fixture
def new_here(node):
    node.on("POST", "/functions", 201, **ANSWER)
    return node


def unpacked(declaration):
    code = base64.b64decode(declaration["code"])
    with tarfile.open(fileobj=io.BytesIO(code)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_the_keys_of_function_yaml_are_those_of_the_api():
    assert sorted((*KEYS, "code")) == sorted(Declaration.__struct_fields__)


def test_the_sample_of_the_specification_is_sent_as_printed(hearth, new_here, folder):
    (folder / "function.yaml").write_text(PRINTED)
    outcome = hearth("deploy", folder)
    assert outcome.code == 0
    sent = {k: v for k, v in new_here.seen[-1].json.items() if v is not None and k != "code"}
    assert sent == {
        "name": "my-function",
        "runtime": "python3.11",
        "execution_mode": "process",
        "timeout": "30s",
        "memory": "256Mi",
        "environment": ["API_KEY=secret"],
        "dependencies": ["requests==2.28.0", "numpy==1.21.0"],
    }


def test_deploy_says_what_has_become_of_it(hearth, new_here, folder):
    outcome = hearth("deploy", folder)
    said = dict(line.split(None, 1) for line in outcome.out.splitlines())
    assert said == {
        "name": "my-function",
        "version": "1",
        "contract": "handler",
        "mode": "process",
        "url": f"{new_here.url}/function/my-function",
    }
    assert outcome.err == "warning: dependencies has no effect yet\n"
    assert hearth("deploy", folder, "-o", "json").json == ANSWER


def test_the_folder_is_sent_as_it_is_without_leftovers(hearth, new_here, folder):
    leftovers = ["__pycache__/a.pyc", ".git/config", ".venv/x", "env/pyvenv.cfg", "env/lib/x.py"]
    ignored = ["notes.txt", "data/big.bin", "sub/deep/secret.key"]
    kept = ["sub/__init__.py", "data/keep.bin", "sub/secret.key.py"]
    for name in (*leftovers, *ignored, *kept):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / ".gitignore").write_text("# comment\n/notes.txt\n*.key\n\n")
    (folder / ".hearthignore").write_text("data/*\n!data/keep.bin\n")
    assert hearth("deploy", folder).code == 0
    assert sorted(unpacked(new_here.seen[-1].json)) == sorted(["handler.py", *kept])


def test_the_same_folder_makes_the_same_bytes(hearth, new_here, folder):
    hearth("deploy", folder)
    os.utime(folder / "handler.py", (1, 1))
    hearth("deploy", folder)
    first, second = (seen.json["code"] for seen in new_here.seen if seen.method == "POST")
    assert first == second


def test_a_link_is_not_followed_but_refused(hearth, node, folder):
    (folder / "passwd").symlink_to("/etc/passwd")
    outcome = hearth("deploy", folder)
    assert outcome.code == 2
    assert "passwd is a link" in outcome.err
    assert node.seen == []


def test_a_link_that_is_ignored_does_no_harm(hearth, new_here, folder):
    (folder / "passwd").symlink_to("/etc/passwd")
    (folder / ".hearthignore").write_text("passwd\n")
    assert hearth("deploy", folder).code == 0


def test_a_function_that_exists_gets_a_new_version(hearth, node, folder):
    node.on("GET", "/functions/my-function", **ANSWER)
    node.on("PUT", "/functions/my-function", **ANSWER)
    assert "1, unchanged" in hearth("deploy", folder).out
    assert [seen.method for seen in node.seen] == ["GET", "PUT"]
    node.on("PUT", "/functions/my-function", **(ANSWER | {"number": 2, "label": "1.0"}))
    assert "2 (1.0)\n" in hearth("deploy", folder).out


def test_what_function_yaml_no_longer_says_goes_back_to_its_default(hearth, new_here, folder):
    (folder / "function.yaml").write_text("function:\n  name: my-function\n  memory_mb: 64\n")
    hearth("deploy", folder)
    sent = new_here.seen[-1].json
    del sent["code"]
    before = {"name": "my-function", "memory": "1Gi", "timeout": "9s", "environment": ["A=b"]}
    after = {"name": "my-function", "memory_mb": 64, "runtime": "python"}
    assert merge(before, sent) == after


def test_without_function_yaml_a_redeploy_changes_only_the_code(hearth, new_here, folder):
    hearth("deploy", folder / "handler.py", "--name", "my-function")
    sent = new_here.seen[-1].json
    assert sorted(sent) == ["code", "name", "runtime"]
    assert base64.b64decode(sent["code"]) == (folder / "handler.py").read_bytes()


def test_options_beat_function_yaml(hearth, new_here, folder):
    (folder / "function.yaml").write_text("function: {name: a, handler: b}")
    hearth("deploy", folder / "function.yaml", "--name", "my-function", "--handler", "main.run")
    sent = new_here.seen[-1].json
    assert (sent["name"], sent["handler"]) == ("my-function", "main.run")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("function:\n  name: a\n  memry: 1", ["function.memry", "line 3", "did you mean memory?"]),
        ("function: {name: a}\nfuncton: 1", ["funcion", "line 2"][1:]),
        ("name: a", ["unknown key name", "line 1"]),
        ("function: a", ["indented below `function:`"]),
        ("", ["indented below `function:`"]),
        ("name: a", ["unknown key name", "indented below `function:`"]),
        ("function: {name: a, code: eA==}", ["unknown key function.code"]),
        ("function: {name: a, version: 1.10}", ["function.version", "quotes"]),
        ("function: {name: 12}", ["function.name", "12", "quotes"]),
        ("function: {environment: {A: true}}", ["function.environment.A", "quotes"]),
        ("function: {environment: {PORT: 80}}", ["function.environment.PORT", "quotes"]),
        ("function: {name: a, name: b}", ["name was given already"]),
    ],
)
def test_a_function_yaml_that_is_wrong_is_refused_before_anything_is_sent(
    hearth, node, folder, text, said
):
    (folder / "function.yaml").write_text(text)
    outcome = hearth("deploy", folder)
    assert outcome.code == 2
    assert node.seen == []
    for words in (*said, "function.yaml"):
        assert words in outcome.err


def test_words_that_yaml_1_1_takes_for_booleans_stay_text(hearth, new_here, folder):
    (folder / "function.yaml").write_text("function: {environment: {A: on, B: no, C: 22:30}}")
    assert hearth("deploy", folder).code == 0
    assert new_here.seen[-1].json["environment"] == {"A": "on", "B": "no", "C": "22:30"}


def test_a_deploy_that_fails_shows_the_functions_traceback(hearth, node, folder):
    error = {"type": "DeployFailed", "message": "the import failed", "path": "$.code"}
    node.fails("POST", "/functions", 400, **error, stack="Traceback\n  line 1")
    outcome = hearth("deploy", folder)
    assert outcome.code == 2
    assert outcome.err == "hearth: code: the import failed\nTraceback\n  line 1\n"


@pytest.mark.parametrize(("name", "said"), [("gone", "there is no"), ("empty", "no file")])
def test_nothing_to_deploy_is_said(hearth, node, tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    outcome = hearth("deploy", tmp_path / name)
    assert outcome.code == 2
    assert said in outcome.err
    assert node.seen == []
