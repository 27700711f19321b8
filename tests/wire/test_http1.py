# ruff: noqa: E501 - tables of bytes read better one case a line
import itertools

import httptools
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from hearth.errors import HearthError
from hearth.wire.http1 import HttpLimits, RequestParser

H = b"Host: a\r\n"


def parse(data, limits=None):
    """Return the requests in `data` as (request, body), and the refusal that ended it or None."""
    parser = RequestParser(limits or HttpLimits())
    parser.receive(data)
    found = []
    try:
        while (request := parser.head()) is not None:
            body = b"" if parser.complete else parser.body()
            if not parser.complete:
                break
            found.append((request, body))
    except HearthError as error:
        return found, error
    return found, None


def only(data):
    found, error = parse(data)
    assert error is None
    assert len(found) == 1
    return found[0]


REFUSED = {
    "length and chunked": (400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked and length": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    "two equal lengths": (400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
    "two lengths": (400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
    "list of lengths": (400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1, 1\r\n\r\nx"),
    "signed length": (400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +1\r\n\r\nx"),
    "negative length": (400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: -1\r\n\r\nx"),
    "hex length": (400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0x1\r\n\r\nx"),
    "empty length": (400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length:\r\n\r\n"),
    "overflowing length": (400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 18446744073709551617\r\n\r\nx"),
    "two host headers": (400, b"GET / HTTP/1.1\r\n" + H + H + b"\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "host with a space": (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "host with a slash": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "host with user info": (400, b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    "coding gzip, chunked": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "coding chunked twice": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "coding identity": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: identity\r\n\r\n"),
    "coding xchunked": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "coding quoted": (400, b"POST / HTTP/1.1\r\n" + H + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'),
    "coding empty": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\r\n\r\n"),
    "chunked in HTTP/1.0": (400, b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "vertical tab coding": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n"),
    "folded line": (400, b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n b\r\n\r\n"),
    "folded with tab": (400, b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n\tb\r\n\r\n"),
    "folded first line": (400, b"GET / HTTP/1.1\r\n X: a\r\n" + H + b"\r\n"),
    "blank before colon": (400, b"POST / HTTP/1.1\r\n" + H + b"Content-Length : 1\r\n\r\nx"),
    "tab before colon": (400, b"GET / HTTP/1.1\r\n" + H + b"X\t: 1\r\n\r\n"),
    "no colon": (400, b"GET / HTTP/1.1\r\n" + H + b"X\r\n\r\n"),
    "empty name": (400, b"GET / HTTP/1.1\r\n" + H + b": x\r\n\r\n"),
    "NUL in a value": (400, b"GET / HTTP/1.1\r\n" + H + b"X: a\0b\r\n\r\n"),
    "CR in a value": (400, b"GET / HTTP/1.1\r\n" + H + b"X: a\rb\r\n\r\n"),
    "LF in a value": (400, b"GET / HTTP/1.1\r\n" + H + b"X: a\nY: b\r\n\r\n"),
    "bare LF lines": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "LF LF inside a head": (400, b"GET / HTTP/1.1\r\n" + H + b"\n\r\n\r\n"),
    "CR CR LF": (400, b"GET / HTTP/1.1\r\r\n" + H + b"\r\n"),
    "escape character": (400, b"GET / HTTP/1.1\r\n" + H + b"X: \x1b\r\n\r\n"),
    "two spaces": (400, b"GET  / HTTP/1.1\r\n" + H + b"\r\n"),
    "tab as separator": (400, b"GET\t/\tHTTP/1.1\r\n" + H + b"\r\n"),
    "space in the target": (400, b"GET /a b HTTP/1.1\r\n" + H + b"\r\n"),
    "no version": (400, b"GET /\r\n" + H + b"\r\n"),
    "HTTP/0.9": (505, b"GET / HTTP/0.9\r\n" + H + b"\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\n" + H + b"\r\n"),
    "HTTP/1.2": (505, b"GET / HTTP/1.2\r\n" + H + b"\r\n"),
    "HTTP/11": (505, b"GET / HTTP/11\r\n" + H + b"\r\n"),
    "lower-case version": (400, b"GET / http/1.1\r\n" + H + b"\r\n"),
    "RTSP": (400, b"GET / RTSP/1.0\r\n" + H + b"\r\n"),
    "unknown method": (501, b"BREW / HTTP/1.1\r\n" + H + b"\r\n"),
    "lower-case method": (501, b"get / HTTP/1.1\r\n" + H + b"\r\n"),
    "method that is no token": (400, b"G@T / HTTP/1.1\r\n" + H + b"\r\n"),
    "TRACE": (405, b"TRACE / HTTP/1.1\r\n" + H + b"\r\n"),
    "CONNECT": (405, b"CONNECT a:80 HTTP/1.1\r\n" + H + b"\r\n"),
    "HTTP/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "relative target": (400, b"GET a HTTP/1.1\r\n" + H + b"\r\n"),
    "foreign authority": (400, b"GET http://b/ HTTP/1.1\r\n" + H + b"\r\n"),
    "ftp target": (400, b"GET ftp://a/ HTTP/1.1\r\n" + H + b"\r\n"),
    "asterisk for GET": (400, b"GET * HTTP/1.1\r\n" + H + b"\r\n"),
    "fragment": (400, b"GET /#x HTTP/1.1\r\n" + H + b"\r\n"),
    "encoded NUL": (400, b"GET /%00 HTTP/1.1\r\n" + H + b"\r\n"),
    "encoded CR LF": (400, b"GET /%0d%0a HTTP/1.1\r\n" + H + b"\r\n"),
    "overlong slash": (400, b"GET /%c0%af HTTP/1.1\r\n" + H + b"\r\n"),
    "surrogate": (400, b"GET /%ed%a0%80 HTTP/1.1\r\n" + H + b"\r\n"),
    "broken escape": (400, b"GET /%zz HTTP/1.1\r\n" + H + b"\r\n"),
    "cut escape": (400, b"GET /%4 HTTP/1.1\r\n" + H + b"\r\n"),
    "raw bytes above 127": (400, b"GET /\xff HTTP/1.1\r\n" + H + b"\r\n"),
    "parent segment": (400, b"GET /a/../b HTTP/1.1\r\n" + H + b"\r\n"),
    "encoded parent segment": (400, b"GET /a/%2e%2E/b HTTP/1.1\r\n" + H + b"\r\n"),
    "parent behind an encoded slash": (400, b"GET /a%2f..%2fb HTTP/1.1\r\n" + H + b"\r\n"),
    "expectation": (417, b"POST / HTTP/1.1\r\n" + H + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx"),
    "two expectations": (400, b"POST / HTTP/1.1\r\n" + H + b"Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n"),
    "two keys": (400, b"GET / HTTP/1.1\r\n" + H + b"X-API-Key: a\r\nX-API-Key: b\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "chunk size with sign": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n"),
    "chunk size with 0x": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n"),
    "chunk size overflow": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\nx\r\n0\r\n\r\n"),
    "chunk with bare LF": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n"),
    "chunk extension with bare LF": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n1;a\nx\r\n0\r\n\r\n"),
    "chunk too long": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n"),
    "blank before chunk size": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n 1\r\nx\r\n0\r\n\r\n"),
    "trailer that is no header": (400, b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\nGET / HTTP/1.1\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_not_exactly_one_meaning_is_refused(name):
    status, data = REFUSED[name]
    found, error = parse(data)
    assert error is not None
    assert error.status == status
    assert error.message
    assert found == []


def test_a_plain_request_is_understood():
    request, body = only(b"POST /a%20b?x=%20 HTTP/1.1\r\n" + H + b"Content-Length: 2\r\n\r\nhi")
    assert (request.method, request.path, request.query) == (b"POST", b"/a b", b"x=%20")
    assert request.raw_path == b"/a%20b"
    assert body == b"hi"
    assert request.keep_alive


def test_an_absolute_target_for_the_same_authority_is_understood():
    request, _ = only(b"GET http://A/b?c HTTP/1.1\r\n" + H + b"\r\n")
    assert (request.path, request.query) == (b"/b", b"c")


def test_an_asterisk_is_for_options():
    assert only(b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n")[0].path == b"*"


def test_one_empty_line_before_a_request_is_forgiven():
    assert only(b"\r\nGET /x HTTP/1.1\r\n" + H + b"\r\n")[0].path == b"/x"


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: Foo, CLOSE\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
    ],
)
def test_persistence_follows_version_and_connection(version, connection, expected):
    request, _ = only(b"GET / HTTP/" + version + b"\r\n" + H + connection + b"\r\n")
    assert request.keep_alive is expected


def test_an_offer_to_upgrade_is_ignored_and_its_body_is_framed():
    head = b"POST / HTTP/1.1\r\n" + H + b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    found, error = parse(head + b"Content-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\n" + H + b"\r\n")
    assert error is None
    assert [(r.path, b) for r, b in found] == [(b"/", b"abc"), (b"/2", b"")]


def test_functions_get_no_hop_by_hop_headers_and_none_that_connection_names():
    head = b"GET / HTTP/1.1\r\n" + H + b"Connection: X-Secret, te\r\nX-Secret: 1\r\nX-Kept: 2\r\n"
    head += (
        b"TE: trailers\r\nKeep-Alive: 1\r\nUpgrade: x\r\nProxy-Authorization: p\r\nTrailer: t\r\n"
    )
    block = only(head + b"Authorization: A\r\n\r\n")[0].forwarded_headers()
    assert block == b"x-kept: 2\r\nhost: a\r\nauthorization: A\r\n"


def test_chunks_become_a_body_and_trailers_are_dropped():
    head = b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: Chunked\r\n\r\n"
    data = (
        head
        + b"3;x=y\r\nabc\r\n02\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\nGET /2 HTTP/1.1\r\n"
        + H
        + b"\r\n"
    )
    found, error = parse(data)
    assert error is None
    assert [(r.path, b) for r, b in found] == [(b"/", b"abcde"), (b"/2", b"")]
    assert b"trailer" not in found[0][0].forwarded_headers()


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (431, b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 2000 + b"\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 2000),
        (431, b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n" * 20 + b"\r\n"),
        (413, b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 101\r\n\r\n"),
        (
            413,
            b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n65\r\n" + b"a" * 101,
        ),
    ],
)
def test_a_limit_is_refused_by_its_name(status, data):
    limits = HttpLimits(max_header_bytes=1000, max_headers=10, max_body=100)
    found, error = parse(data, limits)
    assert error is not None
    assert error.status == status
    assert "gateway.max_" in error.limit
    assert found == []


@pytest.mark.parametrize("end", [b"", b" HTTP/1.1\r\n" + H + b"\r\n"])
def test_a_long_target_is_refused_even_before_it_ends(end):
    _, error = parse(b"GET /" + b"a" * 9000 + end)
    assert error is not None
    assert error.status == 414


class Callbacks:
    def __init__(self):
        self.headers = []

    def on_header(self, name, value):
        self.headers.append((name.lower(), value.strip(b" \t")))


VALUES = st.binary(max_size=12).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b""))
NAMES = st.text("abcXYZ-_.!#|~09 :\t", min_size=1, max_size=8).map(str.encode)


@settings(max_examples=3000, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_headers_are_split_exactly_as_llhttp_does(headers):
    head = b"GET / HTTP/1.1\r\n" + H + b"".join(b"%b:%b\r\n" % pair for pair in headers) + b"\r\n"
    found, error = parse(head)
    theirs = Callbacks()
    try:
        httptools.HttpRequestParser(theirs).feed_data(head)
    except httptools.HttpParserError:
        assert error is not None
        return
    if error is None:
        assert found[0][0].headers == theirs.headers


def test_nothing_is_parsed_ahead():
    parser = RequestParser(HttpLimits())
    one = b"GET / HTTP/1.1\r\n" + H + b"\r\n"
    parser.receive(one * 3)
    assert parser.head() is not None
    assert parser.waiting == 2 * len(one)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=8))
def test_pieces_of_any_size_give_the_same_requests(cuts):
    head = b"POST /p HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n"
    data = head + b"5\r\nhello\r\n0\r\n\r\n" + b"PUT /q?r HTTP/1.1\r\nContent-Length: 4\r\n" + H
    data += b"\r\nbody" + b"GET /s HTTP/1.1\r\n" + H + b"\r\n"
    parser, events, current = RequestParser(HttpLimits()), [], None
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    for start, stop in itertools.pairwise(edges):
        parser.receive(data[start:stop])
        while True:
            if parser.complete:
                current = parser.head()
                if current is None:
                    break
                events.append([current.path, b""])
            if not parser.complete:
                events[-1][1] += parser.body()
                if not parser.complete:
                    break
    assert events == [[b"/p", b"hello"], [b"/q", b"body"], [b"/s", b""]]
