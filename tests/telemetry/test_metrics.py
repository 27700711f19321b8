"""What is counted is what a Prometheus parser reads back, and showing it stalls nobody."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from types import SimpleNamespace

import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from hearth.telemetry.metrics import Metrics, PoolSample

MS = 1_000_000
HELLO, OTHER = SimpleNamespace(function="hello"), SimpleNamespace(function="other")


@pytest.fixture
def run():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


def parsed(text: bytes) -> dict:
    """Return samples by (name, labels), refusing what a strict reader would refuse."""
    families = list(text_string_to_metric_families(text.decode()))
    names = [family.name for family in families]
    assert len(set(names)) == len(names), "a family is split or repeated"
    samples = {}
    for family in families:
        assert family.documentation
        assert family.type != "unknown", family.name
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples, f"{key} twice"
            samples[key] = sample.value
    return samples


def value(samples: dict, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


def test_invocations_are_counted_by_function_and_status(run):
    metrics = Metrics()
    for _ in range(3):
        metrics.finished(HELLO, "succeeded", 2 * MS, 1000, None)
    metrics.finished(HELLO, "timeout", 30_000 * MS, 1000, None)
    metrics.finished(OTHER, "failed", None, None, None)
    samples = parsed(run(metrics.render()))
    name = "hearth_invocations_total"
    assert value(samples, name, function="hello", status="succeeded") == 3
    assert value(samples, name, function="hello", status="timeout") == 1
    assert value(samples, name, function="hello", status="failed") is None
    assert value(samples, name, function="other", status="failed") == 1


def test_refused_calls_are_counted_by_reason_and_are_no_invocations(run):
    metrics = Metrics()
    metrics.refused(HELLO, "QueueFull")
    metrics.refused(HELLO, "QueueFull")
    metrics.refused(HELLO, "NoCapacity")
    samples = parsed(run(metrics.render()))
    family = "hearth_invocations_refused_total"
    assert value(samples, family, function="hello", type="QueueFull") == 2
    assert value(samples, family, function="hello", type="NoCapacity") == 1
    assert not any(name == "hearth_invocations_total" for name, _ in samples)


def test_durations_fall_into_the_right_buckets_and_unmeasured_ones_into_none(run):
    metrics = Metrics()
    for duration in (50_000, 100_000, 100_001, 3 * MS, 60_000 * MS):
        metrics.finished(HELLO, "succeeded", duration, 0, None)
    metrics.finished(HELLO, "succeeded", None, None, None)
    samples = parsed(run(metrics.render()))
    labels = {"function": "hello", "status": "succeeded"}
    name = "hearth_invocation_duration_seconds"
    below = {
        bound: value(samples, f"{name}_bucket", **labels, le=bound)
        for bound in ("0.0001", "0.00025", "0.0025", "0.005", "30", "+Inf")
    }
    assert below == {
        "0.0001": 2,
        "0.00025": 3,
        "0.0025": 3,
        "0.005": 4,
        "30": 4,
        "+Inf": 5,
    }
    assert value(samples, f"{name}_count", **labels) == 5
    assert value(samples, f"{name}_sum", **labels) == pytest.approx(60.003250001)
    assert value(samples, "hearth_invocations_total", **labels) == 6


def test_cold_starts_and_waits_are_shown_only_as_far_as_they_happened(run):
    metrics = Metrics()
    metrics.finished(HELLO, "succeeded", MS, 5 * MS, 4 * MS)
    metrics.finished(HELLO, "succeeded", MS, 0, None)
    metrics.finished(OTHER, "succeeded", MS, 0, None)
    samples = parsed(run(metrics.render()))
    assert value(samples, "hearth_cold_starts_total", function="hello") == 1
    assert value(samples, "hearth_cold_starts_total", function="other") == 0
    assert value(samples, "hearth_init_seconds_sum", function="hello") == pytest.approx(0.004)
    assert value(samples, "hearth_init_seconds_count", function="other") is None
    assert value(samples, "hearth_queue_wait_seconds_count", function="hello") == 2
    assert value(samples, "hearth_queue_wait_seconds_bucket", function="hello", le="0.001") == 1


def test_existing_dashboards_find_their_names(run):
    metrics = Metrics()
    for status in ("succeeded", "failed", "timeout", "cancelled"):
        metrics.finished(HELLO, status, 2 * MS, 0, None)
    samples = parsed(run(metrics.render()))
    for code in ("200", "502", "504", "499"):
        labels = {"function_name": "hello.default", "code": code}
        assert value(samples, "gateway_function_invocation_total", **labels) == 1
        assert value(samples, "gateway_functions_seconds_count", **labels) == 1
        assert value(samples, "gateway_functions_seconds_sum", **labels) == pytest.approx(0.002)


def test_pools_of_one_function_are_added_up(run):
    metrics = Metrics()
    metrics.expose_pools(
        lambda: [
            PoolSample("hello", 2, {"idle": 1, "busy": 3}, 1000, 1.5),
            PoolSample("hello", 1, {"draining": 1, "busy": 1}, None, 0.5),
            PoolSample("other", 0, {}),
        ]
    )
    samples = parsed(run(metrics.render()))
    assert value(samples, "hearth_queue_depth", function="hello") == 3
    assert value(samples, "hearth_instances", function="hello", state="busy") == 4
    assert value(samples, "hearth_instances", function="hello", state="draining") == 1
    assert value(samples, "hearth_instance_memory_bytes", function="hello") == 1000
    assert value(samples, "hearth_instance_memory_bytes", function="other") is None
    assert value(samples, "hearth_instance_cpu_seconds_total", function="hello") == 2.0


def test_single_numbers_are_read_at_each_scrape_and_awaited_if_need_be(run):
    metrics, depth = Metrics(), [7]

    async def queue_depth():
        return depth[0]

    metrics.expose("hearth_async_queue_depth", "Queued calls.", queue_depth)
    metrics.expose("hearth_records_dropped_total", "Lost.", lambda: 3, kind="counter")
    assert value(parsed(run(metrics.render())), "hearth_async_queue_depth") == 7
    depth[0] = 8
    samples = parsed(run(metrics.render()))
    assert value(samples, "hearth_async_queue_depth") == 8
    assert value(samples, "hearth_records_dropped_total") == 3


def test_a_number_that_cannot_be_read_hides_no_other(run):
    metrics = Metrics()
    metrics.expose("broken", "Broken.", lambda: 1 // 0)
    metrics.expose("whole", "Whole.", lambda: 1)
    samples = parsed(run(metrics.render()))
    assert value(samples, "whole") == 1
    assert value(samples, "broken") is None


def test_a_pool_that_cannot_be_measured_hides_nothing_else(run):
    metrics = Metrics()

    def pools():
        yield PoolSample("hello", 1, {"idle": 1})
        raise RuntimeError("gone meanwhile")

    metrics.expose_pools(pools)
    metrics.expose("whole", "Whole.", lambda: 1)
    samples = parsed(run(metrics.render()))
    assert value(samples, "hearth_queue_depth", function="hello") == 1
    assert value(samples, "whole") == 1


def test_the_process_shows_itself(run):
    samples = parsed(run(Metrics().render()))
    assert value(samples, "process_start_time_seconds") == pytest.approx(time.time(), abs=3600)
    assert value(samples, "process_resident_memory_bytes") > 5 << 20
    assert value(samples, "process_cpu_seconds_total") > 0
    descriptors = len(os.listdir("/proc/self/fd"))
    assert value(samples, "process_open_fds") == pytest.approx(descriptors, abs=3)


def test_names_cannot_break_out_of_their_quotes(run):
    metrics = Metrics()
    nasty = 'a"} 1\nhearth_fake_total{x="\\'
    metrics.finished(SimpleNamespace(function=nasty), "succeeded", MS, 0, None)
    samples = parsed(run(metrics.render()))
    assert value(samples, "hearth_invocations_total", function=nasty, status="succeeded") == 1
    assert not any(name == "hearth_fake_total" for name, _ in samples)


def test_a_forgotten_function_is_not_shown(run):
    metrics = Metrics()
    metrics.finished(HELLO, "succeeded", MS, 0, None)
    metrics.forget("hello")
    metrics.forget("never-there")
    assert b"hello" not in run(metrics.render())


def test_rendering_a_thousand_functions_does_not_stall_the_loop(run):
    metrics = Metrics()
    for number in range(1000):
        version = SimpleNamespace(function=f"function-{number}")
        metrics.finished(version, "succeeded", number * MS, 1000, 5 * MS)
        metrics.finished(version, "failed", number * MS, 1000, None)
    metrics.expose_pools(
        lambda: (PoolSample(f"function-{n}", 0, {"idle": 1}, 1, 1.0) for n in range(1000))
    )

    async def stalls() -> list[float]:
        """Return the loop's pauses while rendering, in CPU time: others use this machine too."""
        pauses, rendering = [], asyncio.ensure_future(metrics.render())
        before = time.thread_time()
        while not rendering.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            pauses.append(now - before)
            before = now
        assert len(parsed(await rendering)) > 30_000
        return pauses

    # The best of three: the garbage collector of a long test run pauses for as long by itself.
    pauses = min((run(stalls()) for _ in range(3)), key=max)
    assert len(pauses) > 20, "it was rendered in one go"
    assert max(pauses) < 0.005
    assert statistics.median(pauses) < 0.002
