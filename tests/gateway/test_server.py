import asyncio
import contextlib
import errno
import json
import re
import socket
import struct
import threading

import pytest

from hearth.errors import Crashed
from hearth.gateway import connection


def later(call):
    """An invocation that is answered by the test."""


@pytest.fixture
def pending(node):
    """A node whose calls wait to be answered by the test."""
    node.invoker.behave = later
    return node


def test_a_call_reaches_the_function_and_its_answer_comes_back(node, http):
    with node.connect() as client:
        client.sendall(http.get("/function/hello/a%20b?x=1", method="POST", body=b"hi"))
        status, headers, body = http.read_answer(client)
    assert (status, body) == (200, b"/a b|hi")
    assert re.fullmatch(rb"[0-9a-f]{32}", headers[b"x-call-id"])
    assert int(headers[b"x-start-time"]) > 10**18
    assert re.fullmatch(rb"\d+\.\d{6}", headers[b"x-duration-seconds"])
    assert b"x-cold-start" not in headers
    call = node.invoker.calls[0].request
    assert (call.method, call.query, call.id.encode()) == (b"POST", b"x=1", headers[b"x-call-id"])


def test_a_cold_call_says_so(node, http):
    def cold(call):
        call.cold = True
        call.reply()

    node.invoker.behave = cold
    assert b"X-Cold-Start: true\r\n" in node.send(http.get("/function/hello"))


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order(node, http):
    one, two = http.get("/function/hello/1"), http.get("/function/hello/2")
    answers = http.split(node.send(one + two + one * 40))
    assert [body for _, _, body in answers] == [b"/1|", b"/2|", *[b"/1|"] * 40]


def test_a_pipelined_request_waits_for_the_one_before(pending, http):
    with pending.connect() as client:
        client.sendall(http.get("/function/hello/1") + http.get("/function/hello/2"))
        assert pending.invoker.called.wait(5)
        assert pending.call(lambda: len(pending.invoker.calls)) == 1
        pending.invoker.called.clear()
        pending.call(pending.invoker.calls[0].reply)
        assert http.read_answer(client)[0] == 200
        assert pending.invoker.called.wait(5)
        assert pending.invoker.calls[1].request.path == b"/2"


def test_reading_stops_while_an_answer_is_pending(pending, http):
    with pending.connect() as client:
        client.sendall(http.get("/function/hello"))
        assert pending.invoker.called.wait(5)
        client.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 << 20:
                sent += client.send(b"G" * 65536)
        assert sent < 64 << 20
        (served,) = pending.server.connections
        assert pending.call(lambda: served._parser.waiting) < 1 << 20


@pytest.mark.parametrize(
    ("request_line", "status"),
    [("HEAD /function/hello", 200), ("GET /nothing", 404), ("GET /function/nobody", 404)],
)
def test_head_has_no_body_and_unknown_things_are_404(node, http, request_line, status):
    method, path = request_line.split()
    answer = node.send(http.get(path, method=method))
    assert http.parse_head(answer)[0] == status
    body = answer.partition(b"\r\n\r\n")[2]
    assert bool(body) is (method != "HEAD")
    assert b"Content-Length: 0" not in answer


def test_errors_have_the_documented_form_and_close_what_cannot_be_trusted(node, http):
    answer = node.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + http.get("/function/hello")
    )
    ((status, headers, body),) = http.split(answer)
    error = json.loads(body)["error"]
    assert (status, headers[b"connection"]) == (400, b"close")
    assert error["type"] == "MalformedRequest"
    assert error["component"] == "gateway"
    assert error["request_id"].encode() == headers[b"x-call-id"]
    assert node.invoker.calls == []


def test_a_large_body_is_refused_before_it_is_sent(start, http):
    node = start(settings={"max_body": 1000})
    with node.connect() as client:
        head = http.get("/function/hello", "Content-Length: 5000000", method="POST")
        client.sendall(head + b"x" * 100_000)
        status, headers, body = http.read_answer(client)
    assert (status, headers[b"connection"]) == (413, b"close")
    assert json.loads(body)["error"]["limit"] == "gateway.max_body=1000"


def test_a_client_that_asks_is_told_to_continue(node, http):
    with node.connect() as client:
        head = http.get(
            "/function/hello", "Expect: 100-continue", "Content-Length: 2", method="POST"
        )
        client.sendall(head)
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hi")
        assert http.read_answer(client)[2] == b"/|hi"


def test_a_client_that_asks_for_nothing_useful_is_refused_without_continue(node, http):
    head = http.get("/function/nobody", "Expect: 100-continue", "Content-Length: 2", method="POST")
    with node.connect() as client:
        client.sendall(head + b"hi")
        assert http.read_answer(client)[0] == 404


def test_a_chunked_body_arrives_whole(node, http):
    with node.connect() as client:
        client.sendall(http.get("/function/hello", "Transfer-Encoding: chunked", method="POST"))
        client.sendall(b"3\r\nabc\r\n")
        client.sendall(b"2\r\nde\r\n0\r\n\r\n")
        assert http.read_answer(client)[2] == b"/|abcde"


def stream(call):
    call.sink.head(call, 200, b"content-type: text/plain\r\n")
    call.sink.chunk(call, b"one")
    call.sink.chunk(call, b"")
    call.sink.chunk(call, b"two")
    call.sink.end(call)


def test_a_stream_is_chunked(node, http):
    node.invoker.behave = stream
    head, _, body = node.send(http.get("/function/hello")).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


def test_a_stream_for_http_1_0_ends_with_the_connection(node):
    node.invoker.behave = stream
    answer = node.send(b"GET /function/hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert b"Connection: close" in head
    assert body == b"onetwo"


def test_a_stream_that_fails_is_cut_so_that_it_cannot_seem_whole(node, http):
    def crash(call):
        call.sink.head(call, 200, b"")
        call.sink.chunk(call, b"one")
        call.sink.fail(call, Crashed())

    node.invoker.behave = crash
    assert not node.send(http.get("/function/hello"), half_close=False).endswith(b"0\r\n\r\n")


def test_a_slow_reader_pauses_its_function(pending, http):
    with pending.connect() as client:
        client.sendall(http.get("/function/hello"))
        assert pending.invoker.called.wait(5)
        call = pending.invoker.calls[0]

        def flood():
            call.sink.head(call, 200, b"")
            for _ in range(400):
                call.sink.chunk(call, b"x" * 65536)

        pending.call(flood)
        assert call.paused.wait(5)
        assert not call.resumed.is_set()
        reader = threading.Thread(target=http.read_all, args=(client,))
        reader.start()
        assert call.resumed.wait(10)
        pending.call(lambda: call.sink.end(call))
        client.shutdown(socket.SHUT_WR)
        reader.join(10)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_slow_but_steady_reader_gets_all_of_a_large_answer(start, http, version, monkeypatch):
    monkeypatch.setattr(connection, "STALL_S", 0.2)
    monkeypatch.setattr(connection, "LINGER_S", 0.2)
    node = start(settings={"idle_timeout": 0.2})
    size = 24 << 20
    node.invoker.behave = lambda call: call.reply(body=b"x" * size)
    with node.connect() as client:
        client.sendall(f"GET /function/hello HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
        received = 0
        pace = threading.Event()
        while received < size:
            piece = client.recv(256 << 10)
            assert piece, received
            received += len(piece)
            pace.wait(0.025)


def test_a_client_that_reads_nothing_is_let_go(start, http, monkeypatch):
    monkeypatch.setattr(connection, "STALL_S", 0.2)
    node = start(settings={"idle_timeout": 0.2})
    node.invoker.behave = lambda call: call.reply(body=b"x" * (24 << 20))
    with node.connect() as client:
        client.sendall(http.get("/function/hello"))
        assert node.invoker.called.wait(5)
        node.wait_empty()


def test_a_client_that_resets_cancels_its_call(pending, http):
    client = pending.connect()
    client.sendall(http.get("/function/hello"))
    assert pending.invoker.called.wait(5)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert pending.invoker.calls[0].cancelled.wait(5)
    assert pending.invoker.calls[0].reason == "client disconnected"


def test_a_client_that_leaves_cancels_its_call_after_the_grace_for_half_closers(pending, http):
    client = pending.connect()
    client.sendall(http.get("/function/hello"))
    assert pending.invoker.called.wait(5)
    client.close()
    assert pending.invoker.calls[0].cancelled.wait(8)


def test_a_late_answer_of_a_cancelled_call_reaches_nobody(pending, http):
    client = pending.connect()
    client.sendall(http.get("/function/hello"))
    assert pending.invoker.called.wait(5)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert pending.invoker.calls[0].cancelled.wait(5)
    pending.call(pending.invoker.calls[0].reply)
    pending.invoker.behave = lambda call: call.reply(body=b"mine")
    with pending.connect() as other:
        other.sendall(http.get("/function/hello"))
        assert http.read_answer(other)[2] == b"mine"


def test_a_second_answer_to_one_request_is_ignored(node, http):
    def twice(call):
        call.reply(body=b"first")
        call.reply(body=b"second")

    node.invoker.behave = twice
    answers = http.split(node.send(http.get("/function/hello") * 2))
    assert [body for _, _, body in answers] == [b"first", b"first"]


@pytest.mark.parametrize("status", [100, 101, 0, 600])
def test_a_status_that_is_no_final_answer_is_a_bad_gateway(node, http, status):
    node.invoker.behave = lambda call: call.reply(status)
    assert http.split(node.send(http.get("/function/hello")))[0][0] == 502


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body_have_none_and_no_length(node, http, status):
    node.invoker.behave = lambda call: call.reply(status, b"", b"smuggled")
    answer = node.send(http.get("/function/hello"))
    assert b"smuggled" not in answer
    assert b"Content-Length" not in answer


@pytest.mark.parametrize(
    ("setting", "sent", "status"),
    [
        ("header_timeout", b"GET /function/hello HT", 408),
        (
            "body_timeout",
            b"POST /function/hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc",
            408,
        ),
        ("header_timeout", b"", None),
    ],
)
def test_a_slow_client_is_let_go(start, http, setting, sent, status):
    node = start(settings={setting: 0.2})
    with node.connect() as client:
        client.sendall(sent)
        answer = http.read_all(client) if status is None else None
        if status is None:
            assert answer == b""
        else:
            found, _, body = http.read_answer(client)
            assert found == status
            assert setting in json.loads(body)["error"]["limit"]


def test_an_idle_connection_is_closed(start, http):
    node = start(settings={"idle_timeout": 0.2})
    with node.connect() as client:
        client.sendall(http.get("/function/hello"))
        http.read_answer(client)
        assert client.recv(1) == b""


def test_one_connection_too_many_hears_503(start, http):
    node = start(settings={"max_connections": 1})
    with node.connect() as first:
        first.sendall(http.get("/function/hello"))
        http.read_answer(first)
        with node.connect() as second:
            status, headers, body = http.read_answer(second)
        assert (status, headers[b"retry-after"]) == (503, b"1")
        assert json.loads(body)["error"]["limit"] == "gateway.max_connections=1"
        first.sendall(http.get("/function/hello"))
        assert http.read_answer(first)[0] == 200


def test_a_drain_answers_what_is_under_way_and_closes_what_is_idle(pending, http):
    idle, busy = pending.connect(), pending.connect()
    with idle, busy:
        busy.sendall(http.get("/function/hello"))
        assert pending.invoker.called.wait(5)
        done = threading.Event()

        async def drain():
            await pending.server.drain(10)
            done.set()

        asyncio.run_coroutine_threadsafe(drain(), pending.loop)
        assert idle.recv(1) == b""
        assert not done.is_set()
        pending.call(pending.invoker.calls[0].reply)
        status, headers, _ = http.read_answer(busy)
        assert (status, headers[b"connection"]) == (200, b"close")
        assert busy.recv(1) == b""
        assert done.wait(5)
    with pytest.raises(ConnectionRefusedError):
        pending.connect()


def test_running_out_of_descriptors_pauses_accepting(node, http, monkeypatch):
    real, failed = node.server._listener, threading.Event()

    class Exhausted:
        def accept(self):
            failed.set()
            raise OSError(errno.EMFILE, "too many open files")

        def __getattr__(self, name):
            return getattr(real, name)

    node.call(lambda: setattr(node.server, "_listener", Exhausted()))
    with node.connect() as client:
        assert failed.wait(5)
        assert node.call(lambda: node.server._accepting) is False
        node.call(lambda: setattr(node.server, "_listener", real))
        client.sendall(http.get("/function/hello"))
        assert http.read_answer(client)[0] == 200


def test_a_flood_of_connections_leaves_nothing_behind(node, http):
    for _ in range(200):
        with node.connect() as client:
            client.sendall(http.get("/function/hello"))
    with node.connect() as client:
        client.sendall(http.get("/function/hello"))
        http.read_answer(client)
    node.wait_empty()
    assert node.server._bodies == 0
