"""The harness measures what it says: checked against a server whose behaviour is known."""

import ast
import json
import os
import socket
import threading
import time
import xml.etree.ElementTree as ET

import pytest

import client
import corpus
import distribution
import processes
import report


@pytest.fixture
def server():
    """A server that answers each request after 20 ms, the body 20 ms after the head."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65536):
                time.sleep(0.02)
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Cold-Start: true\r\nContent-Le")
                time.sleep(0.02)
                connection.sendall(b'ngth: 8\r\n\r\n{"a": 1}')

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(10)
    listener.close()


def test_the_client_tells_the_first_byte_from_the_last(server):
    connection = client.Client(server)
    answer = connection.exchange(client.encode("POST", "/", b"{}"))
    connection.close()
    assert (answer.status, answer.json(), answer.header("x-cold-start")) == (200, {"a": 1}, "true")
    assert answer.first_byte_ns >= 20e6
    assert answer.total_ns >= answer.first_byte_ns + 15e6


def test_an_answer_cut_short_is_an_error():
    listener = socket.create_server(("127.0.0.1", 0))
    connection = client.Client(listener.getsockname()[1], timeout_s=10)
    other, _ = listener.accept()
    other.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    other.close()
    with pytest.raises(ConnectionError):
        connection.exchange(client.encode("GET", "/"))
    connection.close()
    listener.close()


def test_quantiles_are_values_that_occurred():
    summary = distribution.summary([n * 1_000_000 for n in range(1, 101)])
    assert (summary["p50"], summary["p99"], summary["max"]) == (51, 100, 100)
    assert len(summary["curve"]) == 101


def test_corpus_functions_differ_run_and_have_about_ninety_lines():
    answers = set()
    for number in range(20):
        source = corpus.source(number)
        assert 80 <= len(source.splitlines()) <= 100
        ast.parse(source)
        scope = {}
        exec(source, scope)
        request = type("Request", (), {"json": json.loads(corpus.PAYLOAD)})
        answers.add(json.dumps(scope["handle"](request)))
    assert len(answers) == 20


def test_processor_time_of_a_process_is_seen():
    before = processes.cpu_us(os.getpid())
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert 80_000 <= processes.cpu_us(os.getpid()) - before <= 400_000


def run_with(ratio: float) -> dict:
    side = {"per_second": 1000, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_us": {"node": 1.0, "wrk": 2.0}}
    compared = {"nginx": side, "hearth": side, "ratio": ratio}
    machine = {"date": "today", "cpu": "one", "load_before": "0"}
    row = {"machine": machine, "quick": False, "workers": 4, "ratio": ratio}
    return {"throughput": row | {"c32": compared, "c64": compared}}


def test_the_report_says_what_falls_short():
    assert report.short(run_with(0.21)) == ["throughput, Python handler, keep-alive, everything on"]
    assert report.short(run_with(0.22)) == []
    assert "falls short" in "\n".join(report.page(run_with(0.21)))


def test_the_page_and_picture_are_written_for_any_part_of_the_results(tmp_path):
    for data in ({}, run_with(0.3)):
        report.write(data, tmp_path)
        ET.parse(tmp_path / "benchmarks.svg")
        assert "not measured" in (tmp_path / "benchmarks.md").read_text()
