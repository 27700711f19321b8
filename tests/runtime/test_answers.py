# ruff: noqa: E501 - tables and the sources of functions read better unbroken
from __future__ import annotations

import json

import pytest

from hearth_runtime import frames

JSON = "content-type: application/json\r\n"
TEXT = "content-type: text/plain; charset=utf-8\r\n"
BINARY = "content-type: application/octet-stream\r\n"


@pytest.mark.parametrize(
    ("expression", "status", "headers", "body"),
    [
        ("{'a': [1, 2.5, True, None], 'ü': '€\\n'}", 200, JSON, '{"a":[1,2.5,true,null],"ü":"€\\n"}'.encode()),
        ("{}", 200, JSON, b"{}"),
        ("[1, 'x', (2,)]", 200, JSON, b'[1,"x",[2]]'),
        ("7", 200, JSON, b"7"),
        ("1.5", 200, JSON, b"1.5"),
        ("False", 200, JSON, b"false"),
        ("'grüße'", 200, TEXT, "grüße".encode()),
        ("''", 200, TEXT, b""),
        ("b'\\x00\\xff\\r\\n'", 200, BINARY, b"\x00\xff\r\n"),
        ("bytearray(b'ab')", 200, BINARY, b"ab"),
        ("memoryview(b'abc')[1:]", 200, BINARY, b"bc"),
        ("None", 204, "", b""),
        ("(None, 404)", 404, "", b""),
        ("({'id': 1}, 201)", 201, JSON, b'{"id":1}'),
        ("('x', 200, {'X-Tag': 'a'})", 200, TEXT + "x-tag: a\r\n", b"x"),
        ("('<p>', 200, {'Content-Type': 'text/html'})", 200, "content-type: text/html\r\n", b"<p>"),
        ("Response(b'x', status=418)", 418, BINARY, b"x"),
        ("Response()", 204, "", b""),
        ("Response('x', headers=[('Set-Cookie', 'a=1'), ('set-cookie', 'b=2')])", 200,
         TEXT + "set-cookie: a=1\r\nset-cookie: b=2\r\n", b"x"),
        ("collections.OrderedDict(a=1)", 200, JSON, b'{"a":1}'),
    ],
)  # fmt: skip
def test_each_kind_of_answer_has_its_status_type_and_bytes(load, expression, status, headers, body):
    host = load(
        f"import collections\nfrom hearth_runtime import Response\ndef handle(request):\n    return {expression}\n"
    )
    answer = host.call()
    assert (answer.kind, answer.status, answer.headers, answer.body) == (
        frames.REPLY,
        status,
        headers,
        body,
    )


@pytest.mark.parametrize(
    ("expression", "type_", "message"),
    [
        ("{1, 2}", "TypeError", "a set cannot be sent as an answer"),
        ("{'when': object()}", "TypeError", "a object has no JSON form; convert it first"),
        ("{'x': float('nan')}", "ValueError", "not JSON compliant"),
        ("{(1, 2): 3}", "TypeError", "keys must be str"),
        ("('a', 'b')", "TypeError", "a status is an int, not str"),
        ("('a', True)", "TypeError", "a status is an int, not bool"),
        ("('a', 99)", "ValueError", "between 200 and 599"),
        ("('a', 101)", "ValueError", "between 200 and 599"),
        ("('a',)", "TypeError", "(body, status)"),
        ("('a', 204)", "ValueError", "has no body"),
        (
            "('a', 200, {'x': 'a\\r\\nset-cookie: b'})",
            "ValueError",
            "character that HTTP does not allow",
        ),
        ("('a', 200, {'x': 'a\\x00'})", "ValueError", "character that HTTP does not allow"),
        ("('a', 200, {'x: y\\r\\nz': 'a'})", "ValueError", "is not a header name"),
        ("('a', 200, {'': 'a'})", "ValueError", "is not a header name"),
        ("('a', 200, {'x': None})", "TypeError", "of type NoneType"),
        ("'\\ud800'", "UnicodeEncodeError", "surrogates not allowed"),
        ("cyclic()", "RecursionError", "recursion"),
    ],
)
def test_what_cannot_be_sent_is_an_error_that_names_it(load, expression, type_, message):
    host = load(
        f"def cyclic():\n    a = {{}}\n    a['a'] = a\n    return a\ndef handle(request):\n    return {expression}\n"
    )
    answer = host.call()
    assert answer.kind == frames.ERROR
    assert answer.error["type"] == type_
    assert message in answer.error["message"]
    assert "hearth_runtime" not in answer.error["stack"]
    assert host.call().kind == frames.ERROR, "the host lives on"


def test_an_exception_carries_type_message_and_the_users_frames_only(load):
    host = load("""
        def deep():
            raise KeyError("nope")

        def handle(request):
            try:
                deep()
            except KeyError as error:
                raise RuntimeError("outer") from error
    """)
    error = host.call().error
    assert (error["type"], error["message"]) == ("RuntimeError", "outer")
    assert "in deep" in error["stack"]
    assert "in handle" in error["stack"]
    assert "direct cause" in error["stack"]
    assert "calls.py" not in error["stack"]


@pytest.mark.parametrize(
    "name", ["KeyboardInterrupt", "GeneratorExit", "BaseException", "MemoryError"]
)
def test_a_base_exception_is_an_error_and_not_the_end(load, name):
    host = load(
        f"def handle(request):\n    if request.body: raise {name}('x')\n    return 'alive'\n"
    )
    assert host.call(b"!").error["type"] == name
    assert host.call().body == b"alive"


def test_an_exception_that_cannot_be_formatted_is_still_reported(load):
    host = load("""
        class Nasty(Exception):
            def __str__(self):
                raise ValueError("no")

        def handle(request):
            raise Nasty
    """)
    assert host.call().error["type"] == "Nasty"


def test_a_huge_message_is_cut(load):
    host = load("def handle(request):\n    raise ValueError('x' * 10_000_000)\n")
    error = host.call().error
    assert len(error["message"]) + len(error["stack"]) < 100_000


@pytest.mark.parametrize(
    ("code", "status"), [("7", 7), ("None", 0), ("'bye'", 1), ("256 + 3", 3), ("-1", 255)]
)
def test_sys_exit_ends_the_process_with_its_code(load, code, status):
    host = load(f"import sys\ndef handle(request):\n    sys.exit({code})\n")
    host.start_call()
    with pytest.raises(EOFError):
        host.frame()
    assert host.wait() == status


def test_bad_json_is_status_400_unless_the_handler_catches_it(load):
    host = load("""
        from hearth_runtime import BadRequest

        def handle(request):
            if request.path == "/caught":
                try:
                    request.json
                except BadRequest as error:
                    return str(error)
            if request.path == "/own":
                raise BadRequest("name is missing")
            return request.json
    """)
    answer = host.call(b"{nope")
    assert answer.status == 400
    assert answer.json["error"]["type"] == "BadInput"
    assert "line 1 column 2" in answer.json["error"]["message"]
    assert host.call(b"", path="/caught").body.startswith(b"the body is not JSON")
    assert host.call(path="/own").json["error"]["message"] == "name is missing"
    assert host.call(b"\xff").status == 400
    assert host.call(b"[" * 200_000).status == 400
    assert host.call(b"1" * 5_000).status == 400
    assert host.call(b' {"a": 1}\n').json == {"a": 1}


def test_a_request_gives_every_part_of_the_call(load):
    host = load("""
        def handle(request):
            return {
                "id": request.id, "method": request.method, "path": request.path, "deadline": request.deadline,
                "function": request.function, "version": request.version, "text": request.text,
                "length": len(request.body), "a": request.query.all("a"), "first": request.query["a"],
                "b": request.query.get("b"), "missing": request.query.get("c", "none"),
                "header": request.headers["X-One"], "any": request.headers.get("X-ONE"), "has": "X-Two" in request.headers,
                "joined": request.headers["x-two"], "all": request.headers.all("X-Two"), "none": request.headers.get("x"),
                "same": request.headers is request.headers and request.query is request.query,
            }
    """)
    answer = host.call(
        "grüße".encode(), method="PUT", path="/a/b%20c", query="a=1&a=zwei+w%C3%B6rter&b=&&%zz=1",
        headers="x-one: eins\r\nx-two: 1\r\nx-two: 2\r\n",
    )  # fmt: skip
    assert answer.json == {
        "id": "id-1", "method": "PUT", "path": "/a/b%20c", "deadline": 1893456000.5, "function": "demo", "version": 3,
        "text": "grüße", "length": 7, "a": ["1", "zwei wörter"], "first": "1", "b": "", "missing": "none",
        "header": "eins", "any": "eins", "has": True, "joined": "1, 2", "all": ["1", "2"], "none": None, "same": True,
    }  # fmt: skip


def test_five_megabytes_go_both_ways_unchanged(load):
    host = load("def handle(request):\n    return request.body[::-1]\n")
    body = bytes(range(256)) * 20_000
    assert host.call(body).body == body[::-1]


def test_json_is_parsed_once_and_the_same_object(load):
    host = load("def handle(request):\n    request.json['n'] += 1\n    return request.json\n")
    assert host.call(b'{"n": 1}').json == {"n": 2}


def test_a_generator_is_streamed_piece_by_piece(load):
    host = load(
        "def handle(request):\n    yield 'ä'\n    yield b'\\x00'\n    yield ''\n    yield bytearray(b'z')\n"
    )
    answer = host.call()
    assert (answer.kind, answer.status, answer.headers) == (frames.END, 200, BINARY)
    assert answer.chunks == ["ä".encode(), b"\x00", b"z"]


def test_a_streamed_response_has_its_own_status_and_type(load):
    host = load("""
        from hearth_runtime import Response

        def handle(request):
            return Response((f"data: {n}\\n\\n" for n in range(2)), 206, {"content-type": "text/event-stream"})
    """)
    answer = host.call()
    assert (answer.status, answer.headers) == (206, "content-type: text/event-stream\r\n")
    assert answer.body == b"data: 0\n\ndata: 1\n\n"


def test_a_piece_is_sent_before_the_next_one_is_made(load, tmp_path):
    host = load(f"""
        import os

        def handle(request):
            yield "first"
            with open({str(tmp_path / "gate")!r}) as gate:  # a FIFO: opens when the test writes
                yield gate.read()
    """)
    import os

    os.mkfifo(tmp_path / "gate")
    host.start_call()
    assert host.frame()[0] == frames.HEAD
    assert host.frame()[3] == b"first"
    (tmp_path / "gate").write_text("second")
    assert host.frame()[3] == b"second"
    assert host.frame()[0] == frames.END


def test_an_empty_stream_has_head_and_end(load):
    host = load("def handle(request):\n    return iter(())\n")
    answer = host.call()
    assert (answer.kind, answer.status, answer.chunks) == (frames.END, 200, [])


def test_a_stream_that_fails_before_its_first_piece_is_a_plain_error(load):
    host = load("def handle(request):\n    raise LookupError('early')\n    yield\n")
    answer = host.call()
    assert (answer.status, answer.error["type"]) == (0, "LookupError")


@pytest.mark.parametrize("failure", ["raise LookupError('late')", "yield 3", "request.json"])
def test_a_stream_that_fails_later_ends_in_error(load, failure):
    host = load(f"def handle(request):\n    yield 'a'\n    {failure}\n")
    answer = host.call()
    assert (answer.kind, answer.status, answer.chunks) == (frames.ERROR, 200, [b"a"])
    assert host.call().status == 200


def test_a_large_piece_is_split_into_chunks(load):
    host = load("def handle(request):\n    yield b'x' * 5_000_000\n")
    answer = host.call()
    assert len(answer.body) == 5_000_000
    assert max(map(len, answer.chunks)) <= 1 << 20


def test_nothing_of_the_last_request_lingers(load):
    host = load("""
        import gc
        gc.disable()

        class Token:
            alive = 0
            def __init__(self): Token.alive += 1
            def __del__(self): Token.alive -= 1

        def handle(request):
            if request.body == b"count":
                return Token.alive
            request.json["token"] = Token()
            if request.query:
                raise ValueError(request)
            return Response(request.json["token"] and "x")

        from hearth_runtime import Response
    """)
    assert host.call(b"{}").body == b"x"
    assert host.call(b"count").body == b"0"
    assert host.call(b"{}", query="a=1").error["type"] == "ValueError"
    assert host.call(b"count").body == b"0"


def test_two_calls_in_one_read_are_both_answered(load):
    host = load("def handle(request):\n    return request.body\n")
    parts = (0.0, b"i", b"POST", b"/", b"", b"")
    host.send(frames.call_frame(1, *parts, b"one") + frames.call_frame(2, *parts, b"two"))
    assert [host.answer(1).body, host.answer(2).body] == [b"one", b"two"]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        frames.frame(frames.INIT, 0, b"{}"),
        frames.frame(frames.REPLY, 1),
        frames.frame(frames.CALL, 1, b"short"),
        frames.frame(frames.CALL, 1, frames.CALL_HEAD.pack(0.0, 9, 0, 0, 0, 0)),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_what_is_not_a_call_ends_the_host_with_code_70(load, data, kind):
    host = load(f"{kind} handle(request):\n    return 1\n")
    host.send(data)
    assert host.wait() == 70


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{", b'"x"', json.dumps({"contract": "handler"}).encode()]
)
def test_a_bad_init_ends_the_host_with_code_70(start, payload, tmp_path, monkeypatch):
    import runtime_peer

    monkeypatch.setattr(runtime_peer.json, "dumps", lambda _fields: payload.decode())
    assert start("x = 1").wait() == 70


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_host_ends_quietly_when_the_node_is_gone(load, kind):
    host = load(f"{kind} handle(request):\n    return 1\n")
    host.call()
    host.socket.shutdown(2)
    assert host.wait() == 0
    assert host.take_output() == ("", "")
