"""A connection that sends the same head again and again: nothing of the one before may stick."""

import json

from hearth.gateway.auth import Authenticator
from hearth.model import SystemClock


def key(scope="invoke"):
    return Authenticator.issue("k", (scope,), SystemClock())


def ask(http, client, *headers, body=b"", path="/function/hello"):
    client.sendall(http.get(path, *headers, method="POST", body=body))
    return http.read_answer(client)


def test_each_request_has_its_own_body_id_and_trace(start, http):
    node = start()
    with node.connect() as client:
        answers = [ask(http, client, body=body) for body in (b"one", b"two", b"six")]
    assert [body for _, _, body in answers] == [b"/|one", b"/|two", b"/|six"]
    assert len({headers[b"x-call-id"] for _, headers, _ in answers}) == 3
    blocks = {call.request.headers for call in node.invoker.calls}
    assert len(blocks) == 3, "each has a traceparent of its own"


def test_the_key_is_checked_each_time_and_never_shown_to_the_function(start, http):
    stored, text = key()
    node = start(keys=[stored, key("admin")[0]])
    for header in (f"Authorization: Bearer {text}", f"X-API-Key: {text}"):
        with node.connect() as client:
            for _ in range(3):
                assert ask(http, client, header)[0] == 200
    blocks = [call.request.headers for call in node.invoker.calls]
    assert not any(text.encode() in block for block in blocks)
    assert len(blocks) == 6


def test_a_key_that_is_removed_is_refused_on_the_same_connection(start, http):
    stored, text = key()
    node = start(keys=[stored, key("admin")[0]])
    with node.connect() as client:
        assert ask(http, client, f"Authorization: Bearer {text}")[0] == 200
        node.call(node.auth.remove, stored.id)
        assert ask(http, client, f"Authorization: Bearer {text}")[0] == 401


def test_a_key_that_comes_to_exist_is_taken_out_of_the_next_request(start, http):
    stored, text = key()
    node = start()
    with node.connect() as client:
        assert ask(http, client, f"Authorization: Bearer {text}")[0] == 200
        node.call(node.auth.add, stored)
        assert ask(http, client, f"Authorization: Bearer {text}")[0] == 200
    shown = [text.encode() in call.request.headers for call in node.invoker.calls]
    assert shown == [True, False], "before there was a key, it was only a header"


def test_alternating_heads_are_never_mixed_up(start, http):
    node = start()
    with node.connect() as client:
        for n in range(6):
            path = f"/function/hello/{n % 2}"
            assert ask(http, client, body=b"x", path=path)[2] == b"/%d|x" % (n % 2)


def test_a_function_that_is_gone_is_not_found_on_the_same_connection(start, http):
    node = start()
    with node.connect() as client:
        assert ask(http, client)[0] == 200
        node.call(node.server.pipeline._registry.routes.clear)
        status, _, body = ask(http, client)
    assert (status, json.loads(body)["error"]["type"]) == (404, "NotFound")


def test_a_chunked_body_is_read_anew_behind_the_same_head(start, http):
    node = start()
    head = http.get("/function/hello", "Transfer-Encoding: chunked", method="POST")
    with node.connect() as client:
        for text in (b"abc", b"de"):
            client.sendall(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text))
            assert http.read_answer(client)[2] == b"/|" + text
