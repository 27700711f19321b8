# ruff: noqa: E501 - tables of bytes read better one case a line
"""Hostile bytes for the HTTP core: alone, in any pieces, and beside a real nginx.

A run feeds 20,000 inputs to the parser, each whole and in pieces, and 400 of the same kind, and the
table of known tricks, to nginx as well. `HEARTH_FUZZ_SEED` repeats a run.
"""

import os
import random
import shutil
import socket
import subprocess

import pytest

from hearth.errors import HearthError
from hearth.wire.http1 import HttpLimits, RequestParser

INPUTS = 20_000
BESIDE_NGINX = 400
SEED = int(os.environ.get("HEARTH_FUZZ_SEED", random.SystemRandom().randrange(2**32)))
LIMITS = HttpLimits(max_header_bytes=2048, max_headers=12, max_body=4096)

LINES = [
    b"GET / HTTP/1.1", b"POST /a HTTP/1.1", b"POST / HTTP/1.0", b"HEAD /%41 HTTP/1.1", b"GET http://a/ HTTP/1.1",
    b"OPTIONS * HTTP/1.1", b"PUT /a?b=c HTTP/1.1", b"GET /../ HTTP/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/2.0", b"get / HTTP/1.1",
]  # fmt: skip
HEADERS = [
    b"Host: a", b"Host: a", b"Host: a", b"Host:  b", b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: 05", b"Content-Length: 5, 5",
    b"Content-Length: +5", b"Content-Length : 5", b"Transfer-Encoding: chunked", b"Transfer-Encoding:chunked ", b"Transfer-Encoding: CHUNKED",
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: \tchunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding\x00: chunked",
    b"Connection: close", b"Connection: keep-alive", b"Connection: content-length", b"Connection: upgrade\r\nUpgrade: h2c",
    b"Expect: 100-continue", b"X: \xff", b"X: a\r\n b", b"X:a\rb", b"X: a\nContent-Length: 7", b"X_Y: z", b" Content-Length: 5", b"X",
]  # fmt: skip
BODIES = [
    b"", b"hello", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n", b"5\nhello\n0\n\n",
    b"05\r\nhello\r\n000\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloX0\r\n\r\n", b"0\r\n\r\n", b"-1\r\n\r\n", b"ffffffffffffffff\r\n", b"\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n",
]  # fmt: skip
ENDS = [b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n"]


def case(rng):
    """Return one to three messages, most of them nearly right, some of their bytes changed."""
    data = b""
    for _ in range(rng.randint(1, 3)):
        end = rng.choice(ENDS)
        lines = [rng.choice(LINES), *rng.choices(HEADERS, k=rng.randint(0, 4))]
        if rng.random() < 0.7:
            lines.insert(1, b"Host: a")
        data += end.join(lines) + end + rng.choice(ENDS) + rng.choice(BODIES)
    changed = bytearray(data)
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        at = rng.randrange(len(changed))
        changed[at : at + rng.randint(0, 2)] = rng.choice(
            (b"", b"\0", b"\r", b"\n", b" ", b"\xff", b"%", b":", b"9")
        )
    return bytes(changed)


def understand(pieces):
    """Return what requests the pieces hold, and whether the parser refused to go on."""
    parser = RequestParser(LIMITS)
    seen = []
    try:
        for piece in pieces:
            parser.receive(piece)
            while True:
                if parser.complete:
                    request = parser.head()
                    if request is None:
                        break
                    seen.append(
                        [
                            request.method,
                            request.path,
                            request.forwarded_headers(),
                            b"",
                            request.keep_alive,
                        ]
                    )
                if not parser.complete:
                    seen[-1][3] += parser.body()
                    if not parser.complete:
                        break
                if parser.complete and not seen[-1][4]:
                    return seen, False, True
    except HearthError:
        return seen, True, False
    return seen, False, parser.complete and not parser.waiting


def pieces_of(data, rng):
    if rng.random() < 0.3:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randint(1, 5)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def test_any_bytes_in_any_pieces_mean_the_same_and_raise_only_refusals():
    rng = random.Random(SEED)
    accepted = refused = 0
    for number in range(INPUTS):
        data = rng.randbytes(rng.randint(1, 80)) if number % 20 == 0 else case(rng)
        whole, no, _ = understand([data])
        split, no_split, _ = understand(pieces_of(data, rng))
        note = f"seed {SEED}, input {number}: {data!r}"
        assert no == no_split, note
        if not no:
            assert whole == split, note
        else:  # of a message refused inside its body, more may have been seen in pieces
            assert len(whole) == len(split), note
            assert whole[:-1] == split[:-1], note
        accepted += not no
        refused += no
    assert accepted > INPUTS / 50  # a fuzzer whose inputs are all refused tests little
    assert refused > INPUTS / 10


# --- beside nginx ------------------------------------------------------------------------------

CONFIG = """
daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {dir}; proxy_temp_path {dir};
  fastcgi_temp_path {dir}; uwsgi_temp_path {dir}; scgi_temp_path {dir}; lingering_close off;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "seen"; }} }}
}}
"""


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    folder = tmp_path_factory.mktemp("nginx")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "nginx.conf").write_text(CONFIG.format(dir=folder, port=port))
    process = subprocess.Popen(
        [
            "nginx",
            "-p",
            str(folder),
            "-e",
            str(folder / "error.log"),
            "-c",
            str(folder / "nginx.conf"),
        ]
    )
    try:
        for _ in range(2000):
            if process.poll() is not None:
                pytest.fail((folder / "error.log").read_text())
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
                attempt.settimeout(0.005)
        yield port
    finally:
        process.kill()
        process.wait()


def nginx_sees(port, data):
    """Return how many requests nginx answers with 200, and whether it refused something."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        received = b""
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                received += piece
        except OSError:
            pass  # it has closed already; what it said before counts
    return received.count(b"HTTP/1.1 200"), b"HTTP/1.1 4" in received or b"HTTP/1.1 5" in received


def test_nginx_and_we_never_disagree_about_where_requests_end(nginx):
    rng = random.Random(SEED)
    compared = both_refused = 0
    for number in range(BESIDE_NGINX * 5):
        data = case(rng)
        ours, refused, whole = understand([data])
        if refused and number % 5:
            continue  # most inputs are refused by us; nginx is asked about a share of those
        theirs, they_refused = nginx_sees(nginx, data)
        both_refused += refused and they_refused
        if refused or they_refused or not whole:
            continue
        compared += 1
        assert len(ours) == theirs, f"seed {SEED}: {data!r}"
    assert compared > 20
    assert both_refused > 20


def test_what_nginx_takes_for_one_request_is_never_two_to_us(nginx):
    smuggled = b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: a\r\n"
    tricks = [
        head + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
        head + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n" % len(smuggled) + smuggled,
        head + b"Transfer-Encoding : chunked\r\nContent-Length: %d\r\n\r\n" % len(smuggled) + smuggled,
        head + b"Transfer-Encoding: xchunked\r\nContent-Length: %d\r\n\r\n" % len(smuggled) + smuggled,
        head + b"X: a\nTransfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % len(smuggled) + smuggled,
        head + b"Content-Length: %d\r\nContent-Length: 0\r\n\r\n" % len(smuggled) + smuggled,
        head + b"Content-Length: 0\r\n Content-Length: %d\r\n\r\n" % len(smuggled) + smuggled,
        head + b"Transfer-Encoding: chunked\r\n\r\n0;\nGET / HTTP/1.1\r\n\r\n" + smuggled,
        b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
    ]  # fmt: skip
    for data in tricks:
        ours, refused, _ = understand([data])
        theirs, they_refused = nginx_sees(nginx, data)
        assert refused or they_refused or len(ours) == theirs, data
        assert refused, data  # and all of these are refused here, whatever others do
