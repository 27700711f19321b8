import asyncio
import json

import pytest

from hearth.control.app import table
from hearth.errors import HearthError


def _every_type(kind=HearthError):
    if kind.component != "cli":  # the command line's own never travel
        yield kind.type
    for child in kind.__subclasses__():
        yield from _every_type(child)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PATCH", "/functions", "GET, HEAD, POST"),
        ("POST", "/functions/x", "DELETE, GET, HEAD, PUT"),
        ("GET", "/invoke", "POST"),
        ("OPTIONS", "/keys", "GET, HEAD, POST"),
    ],
)
def test_a_wrong_method_is_405_and_says_which_are_right(node, method, path, allow):
    answer = node(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert answer.error["type"] == "MethodNotAllowed"


def test_a_query_that_a_route_does_not_take_is_refused_by_name(node):
    answer = node("GET", "/functions?colour=1")
    assert (answer.status, answer.error["type"]) == (400, "BadInput")
    assert "colour" in answer.error["message"]
    assert node("GET", "/healthz?cache=1").status == 200  # probes add what they like


@pytest.mark.parametrize("path", ["/", "/function", "/functions/", "/functions/a/b/c", "/../etc"])
def test_an_unknown_path_is_404_in_the_form_of_all_errors(node, path):
    answer = node("GET", path)
    assert answer.status == 404
    assert set(answer.error) == {"type", "message", "component", "request_id"}


def test_without_a_key_only_the_open_routes_answer(node):
    for route in table():
        if route.handler is not None:
            path = route.path.replace("{ref}", "echo").replace("{id}", "0" * 32)
            answer = node(route.method, path, as_=None)
            expected = 200 if route.access == "open" else 401
            assert answer.status == expected, route
            assert answer.status == 200 or "www-authenticate" in answer.headers


def test_scope_invoke_opens_only_what_it_should(node):
    open_to_callers = {
        (route.method, route.path)
        for route in table()
        if route.handler is not None
        and node(
            route.method,
            route.path.replace("{ref}", "echo").replace("{id}", "0" * 32),
            as_=node.CALLER,
        ).status
        != 403
    }
    assert open_to_callers == {
        ("POST", "/invoke"),
        ("GET", "/invocations/{id}"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
    }


def test_a_bug_of_ours_is_a_500_that_tells_nothing_but_an_id(make_node):
    async def broken():
        raise RuntimeError("secret detail")

    node = make_node(render_metrics=broken)
    answer = node("GET", "/metrics")
    assert (answer.status, answer.error["type"]) == (500, "InternalError")
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    assert answer.error["request_id"] in answer.error["message"]


def test_readiness_names_its_reasons(node):
    assert node("GET", "/readyz").json == {"status": "ready", "reasons": []}
    node.reasons = ("functions are being loaded",)
    answer = node("GET", "/readyz")
    assert (answer.status, answer.json["reasons"]) == (503, ["functions are being loaded"])
    assert node("GET", "/healthz").status == 200


def test_info_repeats_the_warnings_of_the_settings(make_node):
    node = make_node(warnings=("container.runtime has no effect yet",))
    info = node("GET", "/info").json
    assert info["warnings"] == ["container.runtime has no effect yet"]
    assert "python" in info["runtimes"]


def test_metrics_are_rendered_as_prometheus_text(node):
    answer = node("GET", "/metrics")
    assert answer.body == b"hearth_up 1\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_a_body_over_the_limit_is_413(node):
    answer = node(
        "POST",
        "/invoke",
        content=b" " * (17 << 20),
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status, answer.error["type"]) == (413, "PayloadTooLarge")
    assert answer.error["limit"] == f"gateway.max_body={16 << 20}"


# --- audit ---------------------------------------------------------------------------------------


def test_every_mutating_call_is_written_down_whatever_came_of_it(node):
    node.deploy()
    node("POST", "/functions", node.function(source="def handle(:"))
    node("PUT", "/functions/echo", {"timeout": "2s"})
    node("DELETE", "/functions/echo", as_=node.CALLER)
    node("DELETE", "/functions/echo", as_=None)
    node("DELETE", "/functions/echo")
    entries = node("GET", "/audit").json["entries"]
    assert [(one["action"], one["target"], one["identity"], one["outcome"]) for one in entries] == [
        ("function.delete", "echo", "local", "ok"),
        ("function.delete", "-", "nobody", "Unauthenticated"),
        ("function.delete", "-", "k1", "Forbidden"),
        ("function.deploy", "echo", "local", "ok"),
        ("function.deploy", "echo", "local", "DeployFailed"),
        ("function.deploy", "echo", "local", "ok"),
    ]
    assert {one["remote"] for one in entries} == {"127.0.0.1"}
    assert len(node("GET", "/audit?limit=2").json["entries"]) == 2


def test_all_routes_that_change_something_are_audited():
    changing = [r for r in table() if r.method in ("POST", "PUT", "DELETE") and r.handler]
    assert {r.path for r in changing if r.action is None} == {"/invoke"}


# --- keys ----------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_then_known_by_name_only(node):
    made = node("POST", "/keys", {"name": "ci", "scopes": ["admin", "invoke"]})
    assert made.status == 201
    secret = made.json["secret"]
    assert secret.startswith(f"hearth_{made.json['id']}_")
    listed = node("GET", "/keys")
    assert [one["name"] for one in listed.json["keys"]] == ["ci"]
    assert secret.encode() not in listed.body + node("GET", "/audit").body
    assert node.parts.keys.has_keys


def test_the_first_key_must_have_scope_admin(node):
    answer = node("POST", "/keys", {"name": "app"})
    assert (answer.status, answer.error["path"]) == (400, "$.scopes")
    assert not node.parts.keys.has_keys


def test_a_removed_key_is_gone(node):
    key = node("POST", "/keys", {"name": "a", "scopes": ["admin"]}).json
    assert node("DELETE", f"/keys/{key['id']}").json["removed"] is True
    assert node("DELETE", f"/keys/{key['id']}").status == 404
    assert not node.parts.keys.has_keys


def test_the_last_admin_key_stays_while_other_machines_can_reach_the_node(make_node):
    node = make_node(loopback_only=False)
    first = node("POST", "/keys", {"name": "a", "scopes": ["admin"]}).json
    assert node("DELETE", f"/keys/{first['id']}").status == 409
    second = node("POST", "/keys", {"name": "b", "scopes": ["admin"]}).json
    assert node("DELETE", f"/keys/{first['id']}").status == 200
    assert node("DELETE", f"/keys/{second['id']}").status == 409


def test_two_removals_at_once_do_not_take_the_last_admin_key(make_node):
    node = make_node(loopback_only=False)
    ids = [node("POST", "/keys", {"name": n, "scopes": ["admin"]}).json["id"] for n in "ab"]

    async def both():
        return await asyncio.gather(*(node.ask("DELETE", f"/keys/{one}") for one in ids))

    assert sorted(answer.status for answer in node.run(both())) == [200, 409]


def test_the_last_admin_key_stays_while_other_keys_exist(node):
    admin = node("POST", "/keys", {"name": "a", "scopes": ["admin"]}).json
    node("POST", "/keys", {"name": "b"})
    assert node("DELETE", f"/keys/{admin['id']}").status == 409


# --- the document --------------------------------------------------------------------------------


def test_the_document_lists_every_route_and_only_references_that_exist(node):
    document = node("GET", "/openapi.json").json
    assert document["openapi"] == "3.1.0"
    listed = {(m.upper(), path) for path, ops in document["paths"].items() for m in ops}
    assert listed == {(route.method, route.path) for route in table()}
    names = document["components"]["schemas"]
    for reference in json.dumps(document).split('"$ref": "')[1:]:
        assert reference.partition('"')[0].removeprefix("#/components/schemas/") in names


def test_the_page_shows_every_operation_and_loads_nothing(node):
    answer = node("GET", "/docs")
    text = answer.body.decode()
    for route in table():
        assert route.path.replace("&", "&amp;") in text
    assert "<script" not in text
    assert "src=" not in text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_docs_api_md_lists_every_route_field_and_error_type():
    from pathlib import Path

    from hearth.build.declaration import Declaration

    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    missing = [f"{r.method} {r.path}" for r in table() if f"`{r.path}`" not in text]
    missing += [name for name in Declaration.__struct_fields__ if f"`{name}`" not in text]
    missing += [name for name in _every_type() if f"`{name}`" not in text]
    assert missing == []
