import asyncio
import json
import os
import string

import pytest

from hearth.config import Execution, Process, Settings
from hearth.sandbox.base import Exit
from hearth.sandbox.stub import Start


def test_the_curl_body_of_the_spec_makes_a_script(node):
    body = string.Template(
        '{ "name": "my-function", "version": "1.0.0", "runtime": "python", "handler": "main",'
        ' "code": "$CODE", "timeout": "30s", "memory_mb": 128, "max_concurrency": 10 }'
    ).substitute(CODE=node.b64(node.SPEC_SAMPLE))
    answer = node(
        "POST",
        "/functions",
        content=body.encode(),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status == 201
    made = answer.json
    assert (made["name"], made["version"], made["contract"]) == ("my-function", "1.0.0", "script")
    assert (made["timeout"], made["memory_mb"], made["max_concurrency"]) == ("30s", 128, 10)
    assert made["entry"] == "handler.py"
    assert "'main' in handler.py takes no parameter" in made["reasons"][0]
    assert answer.headers["location"] == "/functions/my-function"


def test_the_put_bodies_of_the_spec_change_only_what_they_name(node):
    made = node.deploy("fn", timeout="30s", memory_mb=128)
    slower = node("PUT", f"/functions/{made['id']}", {"timeout": "60s"})
    assert slower.status == 200
    assert (slower.json["timeout"], slower.json["memory_mb"]) == ("60s", 128)
    larger = node("PUT", f"/functions/{made['id']}", {"memory_mb": 256}).json
    assert (larger["timeout"], larger["memory_mb"], larger["number"]) == ("60s", 256, 3)
    assert larger["artifact"] == made["artifact"]
    assert [one["number"] for one in larger["versions"]] == [3, 2, 1]


def test_memory_displaces_memory_mb_when_it_is_put(node):
    node.deploy("fn", memory_mb=128)
    assert node("PUT", "/functions/fn", {"memory": "64Mi"}).json["memory_mb"] == 64


def test_null_resets_a_field(node):
    node.deploy("fn", timeout="5s")
    assert node("PUT", "/functions/fn", {"timeout": None}).json["timeout"] == "30s"


def test_the_same_content_again_is_no_new_version(node):
    first = node("POST", "/functions", node.function(timeout="30s"))
    again = node("POST", "/functions", node.function(timeout=30))
    assert (first.status, again.status) == (201, 200)
    assert again.json["number"] == 1
    assert again.json["id"] == first.json["id"]
    assert node("PUT", "/functions/echo", {"timeout": "30s"}).json["number"] == 1


def test_an_existing_name_with_other_content_is_a_conflict(node):
    node.deploy()
    answer = node("POST", "/functions", node.function(source="def handle(r): return 2"))
    assert answer.status == 409
    assert answer.error["type"] == "Conflict"
    assert "PUT /functions/echo" in answer.error["message"]
    assert node("GET", "/functions/echo").json["number"] == 1


def test_put_keeps_files_and_decides_the_contract_anew(node):
    source = "def handle(request): return 1\ndef other(): pass\n"
    node.deploy("fn", source)
    script = node("PUT", "/functions/fn", {"handler": "other"}).json
    assert script["contract"] == "script"
    assert node("PUT", "/functions/fn", {"handler": None}).json["contract"] == "handler"


def test_put_of_an_unknown_function_is_404(node):
    assert node("PUT", "/functions/nothing", {"timeout": "1s"}).status == 404


def test_a_function_cannot_be_renamed(node):
    node.deploy()
    answer = node("PUT", "/functions/echo", {"name": "other"})
    assert (answer.status, answer.error["path"]) == (400, "$.name")


def test_functions_are_found_by_name_and_by_id_and_listed_by_name(node):
    b = node.deploy("bb")
    a = node.deploy("aa")
    assert [one["name"] for one in node("GET", "/functions").json["functions"]] == ["aa", "bb"]
    assert node("GET", f"/functions/{b['id']}").json == node("GET", "/functions/bb").json
    assert node("GET", f"/functions/{a['id']}").json["name"] == "aa"


def test_a_removed_function_is_gone_with_its_files(node):
    made = node.deploy()
    assert node("DELETE", "/functions/echo").json == {
        "id": made["id"],
        "name": "echo",
        "removed": True,
    }
    assert node("GET", "/functions/echo").status == 404
    assert node("DELETE", "/functions/echo").status == 404
    assert node.run(node.store.load_functions()) == []


def test_functions_are_back_after_a_restart(make_node):
    first = make_node()
    made = first.deploy(environment={"A": "1"}, timeout="3s")
    first.close()
    again = make_node()
    back = again("GET", "/functions/echo").json
    assert {**back, "instances": {}} == {**made, "instances": {}}
    assert again.registry.entry("echo").version.environment == {"A": "1"}


def test_the_api_shows_names_of_variables_but_not_their_values(node):
    answer = node("POST", "/functions", node.function(environment=["API_KEY=hunter2"]))
    assert answer.json["declared"]["environment"] == {"API_KEY": "***"}
    assert b"hunter2" not in answer.body + node("GET", "/functions").body
    assert node.registry.entry("echo").version.environment == {"API_KEY": "hunter2"}


# --- what fails leaves the old version as it was -------------------------------------------------


def test_a_function_that_cannot_be_loaded_fails_its_deploy_with_the_traceback(node):
    failure = {"type": "ImportError", "message": "no soap", "stack": "Traceback: line 3"}
    node.backend.starts = lambda version: Start(dies=Exit(code=1, init_failure=failure))
    answer = node("POST", "/functions", node.function())
    assert (answer.status, answer.error["type"]) == (400, "DeployFailed")
    assert "no soap" in answer.error["message"]
    assert "line 3" in answer.error["stack"]
    assert not node.exists("echo")
    assert node.run(node.store.load_functions()) == []


def test_a_failed_redeploy_leaves_the_old_version_serving(node):
    node.deploy()
    failure = {"type": "ValueError", "message": "bad", "stack": "s"}
    node.backend.starts = lambda version: Start(dies=Exit(code=1, init_failure=failure))
    new = node.b64("def handle(request): return 'new'")
    assert node("PUT", "/functions/echo", {"code": new}).status == 400
    assert node("GET", "/functions/echo").json["number"] == 1
    node.backend.starts = lambda version: Start()
    assert node("POST", "/invoke", {"function": "echo", "payload": 7}).json["result"] == 7


def test_a_syntax_error_names_file_and_line(node):
    answer = node("POST", "/functions", node.function(source="x = 1\ndef handle(:\n"))
    assert answer.status == 400
    assert "handler.py, line 2: SyntaxError" in answer.error["message"]
    assert "/app/function/handler.py" in answer.error["stack"]


def test_what_the_host_cannot_enforce_is_refused_in_strict_and_said_in_lightweight(node):
    node.backend.missing = lambda version: ("memory cannot be limited",)
    refused = node("POST", "/functions", node.function())
    assert (refused.status, refused.error["type"]) == (503, "IsolationUnavailable")
    assert "memory cannot be limited" in refused.error["message"]
    made = node.deploy(isolation_level="lightweight")
    assert made["warnings"] == ["memory cannot be limited"]


def test_concurrent_deploys_of_one_function_are_serialised(node):
    node.deploy()

    async def all_at_once():
        return await asyncio.gather(
            *(node.ask("PUT", "/functions/echo", {"timeout": f"{n}s"}) for n in range(1, 6))
        )

    answers = node.run(all_at_once())
    assert [answer.status for answer in answers] == [200] * 5
    versions = node("GET", "/functions/echo").json["versions"]
    assert [one["number"] for one in versions] == [6, 5, 4, 3, 2, 1]


def test_a_deploy_ends_well_although_its_client_has_gone(node):
    async def leave_early():
        task = asyncio.ensure_future(node.ask("POST", "/functions", node.function()))
        while not node.deployer._tasks:  # noqa: ASYNC110 - it begins within a few turns
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await node.deployer.close()

    node.run(leave_early())
    assert node.exists("echo")


# --- the declaration -----------------------------------------------------------------------------

REFUSED = [
    ({"nmae": "x"}, "$.nmae", "did you mean 'name'?"),
    ({"scale": {"mni": 1}}, "$.scale.mni", "did you mean 'min'?"),
    ({"version": 1.0}, "$.version", 'version: "1.0"'),
    ({"name": "Echo"}, "$.name", "regex"),
    ({"name": "a" * 64}, "$.name", "63"),
    ({"name": "-a"}, "$.name", "regex"),
    ({"name": None}, "$.name", "missing"),
    ({"runtime": "python3.8"}, "$.runtime", "use one of"),
    ({"runtime": "cobol"}, "$.runtime", "not supported yet"),
    ({"handler": "a:b"}, "$.handler", "module.function"),
    ({"handler": "no.where.handle"}, "$.handler", "no no/where.py"),
    ({"entry": "../x.py"}, "$.code", "leads out"),
    ({"entry": "x.sh"}, "$.entry", ".py"),
    ({"contract": "web"}, "$.contract", "not supported yet"),
    ({"contract": "x"}, "$.contract", "handler or script"),
    ({"execution_mode": "container"}, "$.execution_mode", "not supported yet"),
    ({"execution_mode": "x"}, "$.execution_mode", "process or auto"),
    ({"image": "alpine"}, "$.image", "not supported yet"),
    ({"network": "outbound"}, "$.network", "not supported yet"),
    ({"network": "host"}, "$.network", "lightweight"),
    ({"isolation_level": "none"}, "$.isolation_level", "strict"),
    ({"timeout": "soon"}, "$.timeout", "not a duration"),
    ({"timeout": 0}, "$.timeout", "between"),
    ({"timeout": "9999999999999999999999999999h"}, "$.timeout", "not a duration"),
    ({"timeout": True}, "$.timeout", "bool"),
    ({"memory": "1Ki"}, "$.memory", "16Mi"),
    ({"memory": "9" * 400 + "T"}, "$.memory", ""),
    ({"memory": "64Mi", "memory_mb": 128}, "$.memory_mb", "contradict"),
    ({"memory_mb": 10**30}, "$.memory", "not a size"),
    ({"memory_mb": -1}, "$.memory_mb", ""),
    ({"memory_mb": "128"}, "$.memory_mb", "int"),
    ({"cpu": 0}, "$.cpu", "more than 0"),
    ({"cpu": "1000"}, "$.cpu", "between"),
    ({"pids": 1}, "$.pids", "between"),
    ({"pids": 10**400}, "$.pids", "between"),
    ({"tmp_size": "1Ti"}, "$.tmp", "between"),
    ({"max_concurrency": 0}, "$.max_concurrency", "between"),
    ({"instance_concurrency": 2}, "$.instance_concurrency", "async"),
    ({"queue_size": -1}, "$.queue_size", "between"),
    ({"queue_timeout": "2h"}, "$.queue_timeout", "between"),
    ({"queue_timeout": 0}, "$.queue_timeout", "between"),
    ({"scale": {"min": 11}}, "$.scale.min", "between"),
    ({"scale": {"idle_ttl": "30d"}}, "$.scale.idle_ttl", "between"),
    ({"environment": ["NOVALUE"]}, "$.environment", "KEY=value"),
    ({"environment": ["A=1", "A=2"]}, "$.environment.A", "twice"),
    ({"environment": {"1A": "x"}}, "$.environment", "name of a variable"),
    ({"environment": {"HEARTH_X": "x"}}, "$.environment.HEARTH_X", "platform"),
    ({"environment": {"FUNCTION_PAYLOAD": "x"}}, "$.environment.FUNCTION_PAYLOAD", "platform"),
    ({"environment": {"A": "\0"}}, "$.environment.A", "NUL"),
    ({"environment": {"A": "x" * 140_000}}, "$.environment", "128 KiB"),
    ({"environment": {"A": 1}}, "$.environment", "str"),
    ({"code": 5}, "$.code", "text"),
    ({"code": "!!!!"}, "$.code", "base64"),
    ({"code": "QQ"}, "$.code", "base64"),
    ({"code": ""}, "$.code", "empty"),
    ({"code": None}, "$.code", "missing"),
]


@pytest.mark.parametrize(
    ("fields", "path", "said"), REFUSED, ids=[json.dumps(one[0])[:40] for one in REFUSED]
)
def test_a_declaration_is_refused_by_name(node, fields, path, said):
    answer = node("POST", "/functions", node.function() | fields)
    assert answer.status == 400, answer.body
    assert answer.error["path"].startswith(path), answer.error
    assert said in answer.error["message"], answer.error
    assert node.registry.functions() == []


def test_dependencies_are_accepted_with_a_warning(node):
    made = node.deploy(dependencies=["requests==2.28.0"])
    assert made["warnings"] == [
        "dependencies has no effect yet: put the packages into the bundle (requests==2.28.0)"
    ]


def test_the_function_format_of_the_spec_is_taken_as_printed(node):
    made = node.deploy(
        "my-function",
        runtime="python3.11",
        execution_mode="process",
        timeout="30s",
        memory="256Mi",
        environment=["API_KEY=secret"],
        dependencies=["requests==2.28.0", "numpy==1.21.0"],
    )
    assert (made["mode"], made["memory_mb"], made["runtime"]) == ("process", 256, "python3.11")


def test_every_setting_reaches_its_version(node):
    made = node.deploy(
        "all",
        "async def handle(request): return 1",
        cpu_limit="250m",
        pids=32,
        tmp_size="8Mi",
        max_concurrency=40,
        instance_concurrency=4,
        queue_size=7,
        queue_timeout="2s",
        scale={"min": 1, "max": 5, "idle_ttl": "1m"},
        execution_mode="auto",
        isolation_level="lightweight",
        network="host",
    )
    assert made["limits"] == {
        "timeout_s": 30.0,
        "memory_bytes": 128 << 20,
        "cpu": 0.25,
        "pids": 32,
        "tmp_bytes": 8 << 20,
        "max_concurrency": 20,
        "instance_concurrency": 4,
        "queue_size": 7,
        "queue_timeout_s": 2.0,
        "response_bytes": 64 << 20,
    }
    assert made["scale"] == {"min_instances": 1, "idle_ttl_s": 60.0}
    assert (made["isolation_level"], made["network"]) == ("lightweight", "host")
    assert "max_concurrency is 20: scale.max is 5" in made["reasons"]
    assert node.registry.entry("all").version.preload == ("asyncio",)


def test_defaults_come_from_the_settings_of_the_node(make_node):
    settings = Settings(
        process=Process(isolation_level="lightweight", memory_limit=64 << 20, cpu_limit=0.5),
        execution=Execution(warm_instance_ttl=5),
    )
    made = make_node(settings).deploy()
    assert made["isolation_level"] == "lightweight"
    assert (made["limits"]["memory_bytes"], made["limits"]["cpu"]) == (64 << 20, 0.5)
    assert made["scale"]["idle_ttl_s"] is None, "the node decides while it runs"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"a":\xff}', b"[" * 100_000])
def test_what_is_not_a_json_object_is_refused(node, body):
    answer = node("POST", "/functions", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.error["type"]) == (400, "BadInput")


def test_a_form_is_refused_so_that_no_web_page_can_send_one(node):
    body = json.dumps(node.function()).encode()
    answer = node("POST", "/functions", content=body, headers={"Content-Type": "text/plain"})
    assert answer.status == 400
    assert "application/json" in answer.error["message"]


def test_json_escapes_in_the_code_are_understood(node):
    code = node.b64(node.HANDLER).replace("/", "\\/")
    body = b'{"name": "esc", "code": "' + code[:8].encode() + b"\\n" + code[8:].encode() + b'"}'
    answer = node("POST", "/functions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status == 201, answer.body


def test_no_process_or_file_is_left_of_a_refused_deploy(node, tmp_path):
    node("POST", "/functions", node.function(source="def handle(:"))
    assert os.listdir(tmp_path / "work") == []
    assert os.listdir(tmp_path / "artifacts") == []


def test_a_sweep_removes_what_no_version_uses_and_nothing_else(node):
    made = node.deploy()
    root = node.artifacts.path(made["artifact"]).parent
    for leftover in (node.artifacts.stage(), node.artifacts.path("0" * 64)):
        leftover.mkdir(exist_ok=True)
        (leftover / "handler.py").touch()
    node.run(node.deployer.sweep(older_than_s=60))
    assert len(list(root.iterdir())) == 3
    node.run(node.deployer.sweep(older_than_s=0))
    assert [path.name for path in root.iterdir()] == [made["artifact"]]
    assert node("POST", "/invoke", {"function": made["name"], "payload": 1}).status == 200
