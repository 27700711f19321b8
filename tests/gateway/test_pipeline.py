# ruff: noqa: E501 - tables of bytes read better one case a line
import asyncio
import json
import os
import socket
import threading

import pytest
from starlette.responses import StreamingResponse

from hearth.errors import InvocationError, QueueFull
from hearth.gateway.auth import Authenticator
from hearth.gateway.peer import PeerGuard, owner_uid
from hearth.model import SystemClock


def key(*scopes):
    return Authenticator.issue("k", scopes, SystemClock())


async def echo(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    answer = {
        "path": scope["path"], "identity": scope["hearth.identity"].id,
        "state": scope["state"]["request_id"], "bytes": len(body),
    }  # fmt: skip
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"9999"), (b"x-app", b"1")],
        }
    )
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def test_everything_else_goes_to_the_control_app(start, http):
    answer = start(app=echo).send(
        http.get("/functions?x", method="POST", body=b"x" * 300_000), half_close=True
    )
    ((status, headers, body),) = http.split(answer)
    told = json.loads(body)
    assert (status, headers[b"x-app"], told["bytes"]) == (200, b"1", 300_000)
    assert (told["path"], told["identity"]) == ("/functions", "local")
    assert told["state"].encode() == headers[b"x-call-id"]


def test_a_crash_of_the_app_is_told_without_a_traceback(start, http):
    async def crash(scope, receive, send):
        raise ValueError("secret detail")

    ((status, _, body),) = http.split(start(app=crash).send(http.get("/functions")))
    assert status == 500
    assert json.loads(body)["error"]["type"] == "InternalError"
    assert b"secret" not in body


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: x", b"a\nb", b"a\0b"])
def test_an_app_cannot_split_its_response(start, http, value):
    async def split(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", value)]})
        await send({"type": "http.response.body", "body": b""})

    answer = start(app=split).send(http.get("/functions"))
    assert http.parse_head(answer)[0] == 500
    assert b"Set-Cookie" not in answer


def test_an_app_can_stream(start, http):
    async def stream(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    assert (
        start(app=stream)
        .send(http.get("/functions"))
        .endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    )


def test_the_app_hears_that_its_client_has_left(start, http):
    heard = threading.Event()

    async def wait(scope, receive, send):
        await receive()
        if (await receive())["type"] == "http.disconnect":
            heard.set()

    with start(app=wait).connect() as client:
        client.sendall(http.get("/functions"))
    assert heard.wait(8)


class Follower:
    """An app whose answer goes on, silently, until the client has left."""

    def __init__(self):
        self.ended = threading.Event()

    async def __call__(self, scope, receive, send):
        async def lines():
            try:
                yield b"one\n"
                await asyncio.Event().wait()
            finally:
                self.ended.set()

        await StreamingResponse(lines())(scope, receive, send)


def test_a_silent_stream_of_the_app_ends_when_its_client_has_left(start, http):
    app = Follower()
    node = start(app=app)
    with node.connect() as client:
        client.sendall(http.get("/functions/hello/logs?follow=1"))
        while b"one" not in client.recv(65536):
            pass
        assert not app.ended.is_set()
    assert app.ended.wait(8)
    node.wait_empty()


def test_who_follows_a_stream_of_the_app_does_not_hold_up_a_drain(start, http):
    app = Follower()
    node = start(app=app)
    with node.connect() as client:
        client.sendall(http.get("/functions/hello/logs?follow=1"))
        while b"one" not in client.recv(65536):
            pass
        node.run(node.server.drain(60))
        assert not http.read_all(client).endswith(b"0\r\n\r\n"), "it must not seem whole"
    assert app.ended.wait(8)


def test_an_asynchronous_call_is_accepted_once_it_is_safe(start, http):
    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"

    async def enqueue(version, call, *, traceparent):
        assert (version.function, call.path, call.body) == ("hello", b"/p", b"hi")
        assert traceparent == parent
        return call.id

    node = start(enqueue=enqueue)
    ((status, headers, body),) = http.split(
        node.send(
            http.get("/async-function/hello/p", f"traceparent: {parent}", method="POST", body=b"hi")
        )
    )
    accepted = json.loads(body)
    assert (status, accepted["status"]) == (202, "queued")
    assert headers[b"location"].decode() == f"/invocations/{accepted['id']}"
    assert headers[b"x-call-id"].decode() == accepted["id"]


def test_an_asynchronous_call_that_is_not_accepted_says_why(start, http):
    async def enqueue(version, call, *, traceparent):
        raise QueueFull(retry_after_s=2.5)

    answers = [
        ("POST", "hello", 429), ("POST", "nobody", 404), ("GET", "hello", 405),
    ]  # fmt: skip
    node = start(enqueue=enqueue)
    for method, name, expected in answers:
        ((status, headers, body),) = http.split(
            node.send(http.get(f"/async-function/{name}", method=method))
        )
        assert status == expected
        if status == 404:
            assert json.loads(body)["error"]["component"] == "gateway"
        if status == 429:
            assert headers[b"retry-after"] == b"3"
        if status == 405:
            assert headers[b"allow"] == b"POST"


def test_keys_open_what_their_scope_allows_and_nothing_else(start, http):
    invoke, invoke_text = key("invoke")
    admin, admin_text = key("admin")
    node = start(app=echo, keys=[invoke, admin])
    table = [
        (None, "/healthz", 200), (None, "/function/hello", 401), (None, "/function/nobody", 401), (None, "/functions", 401), (None, "/docs", 401),
        ("hearth_x_y", "/function/hello", 401), (invoke_text, "/function/hello", 200), (invoke_text, "/functions", 403),
        (invoke_text, "/invocations/ab", 200), (admin_text, "/functions", 200), (admin_text, "/function/hello", 200),
    ]  # fmt: skip
    for text, path, expected in table:
        headers = [f"Authorization: Bearer {text}"] if text else []
        assert http.parse_head(node.send(http.get(path, *headers)))[0] == expected, (text, path)
    assert all(b"authorization" not in call.request.headers for call in node.invoker.calls)


def test_a_refused_upload_is_not_read_into_memory(start, http):
    admin, _ = key("admin")
    node = start(keys=[admin])
    with node.connect() as client:
        client.sendall(http.get("/function/hello", "Content-Length: 9000000", method="POST"))
        status, headers, _ = http.read_answer(client)
    assert (status, headers[b"connection"]) == (401, b"close")
    assert headers[b"www-authenticate"].startswith(b"Bearer")


def test_over_the_rate_callers_are_told_when_to_come_back(start, http):
    node = start(settings={"rate_limit": 0.5, "rate_burst": 2})
    answers = http.split(node.send(http.get("/function/hello") * 3))
    assert [status for status, _, _ in answers] == [200, 200, 429]
    assert answers[2][1][b"retry-after"] == b"2"


def test_the_stack_of_a_function_is_for_administrators(start, http):
    invoke, invoke_text = key("invoke")
    admin, admin_text = key("admin")
    node = start(keys=[invoke, admin])
    node.invoker.behave = lambda call: call.sink.fail(call, InvocationError("boom", stack="line 7"))
    for text, shown in ((invoke_text, False), (admin_text, True)):
        ((status, _, body),) = http.split(
            node.send(http.get("/function/hello", f"X-API-Key: {text}"))
        )
        assert status == 502
        assert ("stack" in json.loads(body)["error"]) is shown


def test_foreign_names_are_refused_while_there_is_no_key(start, http):
    node = start(app=echo)
    for path in ("/function/hello", "/functions"):
        answer = node.send(f"GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode())
        assert http.parse_head(answer)[0] == 403
    assert (
        http.parse_head(node.send(http.get("/functions", "Origin: http://evil", method="DELETE")))[
            0
        ]
        == 403
    )


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", False),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", False),
        ("nonsense", False),
    ],
)
def test_a_valid_traceparent_is_passed_on_and_another_replaced(node, http, sent, kept):
    node.send(http.get("/function/hello", f"traceparent: {sent}"))
    call = node.invoker.calls[0].request
    (line,) = [line for line in call.headers.split(b"\r\n") if line.startswith(b"traceparent")]
    assert (line == f"traceparent: {sent}".encode()) is kept
    assert kept or call.id.encode() in line


def test_a_clients_call_id_is_handed_on_as_request_id_and_never_becomes_ours(node, http):
    node.send(http.get("/function/hello", "X-Call-Id: theirs-1"))
    node.send(http.get("/function/hello", "X-Call-Id: bad value"))
    first, second = (call.request for call in node.invoker.calls)
    assert b"x-request-id: theirs-1\r\n" in first.headers
    assert b"x-request-id" not in second.headers
    assert first.id != "theirs-1"


# --- functions and the control API -------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes another uid, which only root can")
UID = 54321


def ask_as(uid, port, request):
    """Send `request` from a process of `uid`; return what it read."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(uid)
            client = socket.socket()
            client.settimeout(10)
            client.connect(("127.0.0.1", port))
            client.sendall(request)
            os.write(write, client.recv(4096))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@needs_root
def test_a_process_of_a_function_cannot_use_the_control_api_but_may_call_functions(start, http):
    node = start(app=echo, guard=PeerGuard(uid_base=UID))
    assert http.parse_head(ask_as(UID + 1, node.port, http.get("/keys")))[0] == 403
    assert http.parse_head(ask_as(UID - 1, node.port, http.get("/keys")))[0] == 200
    assert http.parse_head(ask_as(UID + 1, node.port, http.get("/function/hello")))[0] == 200


def test_the_owner_of_a_closed_socket_is_nobody():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, address = server.accept()
        with accepted:
            assert owner_uid(address, accepted.getsockname()) == os.geteuid()
            client.close()
            assert owner_uid(address, accepted.getsockname()) is None


@pytest.mark.parametrize("guarded", [True, False])
def test_a_local_peer_that_has_gone_is_refused_because_it_cannot_be_identified(
    start, http, guarded
):
    handled = threading.Event()

    async def app(scope, receive, send):
        handled.set()
        await echo(scope, receive, send)

    node = start(app=app, guard=PeerGuard(uid_base=UID) if guarded else None)
    hold = threading.Event()
    entered = threading.Event()

    def block():
        entered.set()
        hold.wait(10)

    node.loop.call_soon_threadsafe(block)
    assert entered.wait(5)
    client = node.connect()  # the kernel completes the handshake while the node is held up
    client.sendall(http.get("/keys", method="DELETE"))
    client.close()
    hold.set()
    assert handled.wait(1 if guarded else 8) is not guarded
    node.wait_empty()
