"""Turns the JSON of a run into a page and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drawing

Data = dict[str, Any]

HOW = """\
`make bench` measures this on your machine (root, nginx and wrk needed) and writes this page;
`make bench ARGS='cold --quick'` measures one row quickly into `.cache/bench`."""

DEFINITIONS = """\
## What is measured

Load generator, gateway and functions share the machine's cores. Isolation is `strict`, an API key
is checked, call logs, invocation records and metrics are on. nginx answers the same POST with
`return 200` ([nginx.conf](../bench/nginx.conf)) in the same run, in turn with Hearth. Every answer
must be a success, otherwise nothing is reported.

- **Warm**: one connection, one call at a time, about 64 bytes of JSON parsed and answered as JSON;
  from before the request is written until the last byte of the answer is read.
- **Throughput**: `wrk -t1` with 32 and 64 connections; median of the rounds.
- **Cold**: different functions of about 90 lines, at least 20 ms of quiet before each call, the
  node restarted before; `X-Cold-Start` is checked on every answer; until the first byte.
- **Memory**: the difference that idle instances of different functions make, as PSS of the node's
  whole tree below the node process, and as `MemAvailable` of the machine.
- **At once**: each function notes when its call began and ended on the machine's monotonic clock;
  the last one began before the first one ended.
- **Left behind**: cold starts through the process backend, eight at once, load, one call, end; then
  the figures of the node's four lasting processes and of the kernel are compared with those before
  ([leak.py](../bench/leak.py))."""


@dataclass(frozen=True)
class Bar:
    """One promise: what is measured, what is promised, and how to read it from the results."""

    row: str
    title: str
    promise: str
    measured: Callable[[Data], str]
    kept: Callable[[Data], bool]


MIB = 1 << 20
BARS = (
    Bar(
        "warm",
        "warm call through the full gateway, p50 at concurrency 1",
        "≤ 0.15 ms",
        lambda r: f"{r['hearth_ms']['p50']:.3f} ms (nginx {r['nginx_ms']['p50']:.3f})",
        lambda r: r["hearth_ms"]["p50"] <= 0.15,
    ),
    Bar(
        "throughput",
        "throughput, Python handler, keep-alive, everything on",
        "at least 0.22 of nginx",
        lambda r: (
            f"{r['c32']['hearth']['per_second']:,}/s = {r['c32']['ratio']:.3f} of nginx (c32), "
            f"{r['c64']['hearth']['per_second']:,}/s = {r['c64']['ratio']:.3f} of nginx (c64)"
        ),
        lambda r: r["ratio"] >= 0.22,
    ),
    Bar(
        "cold",
        "cold start to the first byte, spare ready",
        "p50 ≤ 1.5 ms, p99 ≤ 5 ms",
        lambda r: quantiles(r["spare_ms"]),
        lambda r: r["spare_ms"]["p50"] <= 1.5 and r["spare_ms"]["p99"] <= 5,
    ),
    Bar(
        "cold",
        "cold start to the first byte, no spare",
        "p50 ≤ 15 ms",
        lambda r: quantiles(r["no_spare_ms"]),
        lambda r: r["no_spare_ms"]["p50"] <= 15,
    ),
    Bar(
        "memory",
        "memory per idle instance",
        "≤ 1.5 MB",
        lambda r: (
            f"PSS {r['pss_bytes'] / MIB:.2f} MiB, MemAvailable {r['available_bytes'] / MIB:.2f} MiB"
        ),
        lambda r: max(r["pss_bytes"], r["available_bytes"]) <= 1.5e6,
    ),
    Bar(
        "concurrent",
        "different functions with a call in flight each, at once",
        "≥ 1,000",
        lambda r: (
            f"{r['functions']:,}"
            + (f", all for {r['overlap_s']:.1f} s" if r["all_at_once"] else ", but NOT at once")
        ),
        lambda r: r["functions"] >= 1000 and r["all_at_once"],
    ),
    Bar(
        "leak",
        "left behind by cold starts (descriptors, processes, cgroups, mounts, namespaces, memory)",
        "nothing after 10,000",
        lambda r: (
            f"{', '.join([*r['grown'], *r['left']]) or 'nothing'} after {r['starts']:,}, "
            f"{r['per_second']:g} starts/s"
        ),
        lambda r: r["starts"] >= 10_000 and not r["grown"] and not r["left"],
    ),
)


def quantiles(summary: Data) -> str:
    """Return the three quantiles that are quoted."""
    return ", ".join(f"{name} {summary[name]:.2f}" for name in ("p50", "p90", "p99")) + " ms"


def short(data: Data) -> list[str]:
    """Return the titles of the measured bars that were not met."""
    full = [bar for bar in BARS if bar.row in data and not data[bar.row]["quick"]]
    return [bar.title for bar in full if not bar.kept(data[bar.row])]


def table(data: Data) -> Iterator[str]:
    """Yield the table of promises as Markdown."""
    yield "| what | bar | measured | |"
    yield "|---|---|---|---|"
    for bar in BARS:
        if bar.row not in data:
            yield f"| {bar.title} | {bar.promise} | not measured | |"
            continue
        row = data[bar.row]
        verdict = "met" if bar.kept(row) else "**falls short**"
        verdict = "too few samples to judge" if row["quick"] else verdict
        yield f"| {bar.title} | {bar.promise} | {bar.measured(row)} | {verdict} |"


def write(data: Data, out: Path) -> None:
    """Write benchmarks.md and benchmarks.svg beside the JSON."""
    (out / "benchmarks.svg").write_text(drawing.picture(data))
    (out / "benchmarks.md").write_text("\n".join(page(data)) + "\n")


def page(data: Data) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Benchmarks"
    yield ""
    yield "<!-- Generated by bench/run.py from benchmarks.json; edits are lost. -->"
    yield ""
    yield from HOW.splitlines()
    yield ""
    yield from table(data)
    yield ""
    yield "![Latency distributions and throughput](benchmarks.svg)"
    yield ""
    yield from DEFINITIONS.splitlines()
    yield ""
    for section in (processor_time, rungs, machines):
        yield from section(data)


def processor_time(data: Data) -> Iterator[str]:
    """Yield the CPU time per request of each process."""
    if "throughput" not in data:
        return
    yield "## Processor time per request"
    yield ""
    yield f"Microseconds; at most {data['throughput']['workers']} instances of the function."
    yield ""
    yield "| run | requests/s | p50 ms | p99 ms | node | instances | platform | nginx | wrk |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for connections in ("c32", "c64"):
        for side in ("hearth", "nginx"):
            run = data["throughput"][connections][side]
            cells = [
                run["cpu_us"].get(r, "") for r in ("node", "instances", "platform", "nginx", "wrk")
            ]
            text = " | ".join(str(cell) for cell in cells)
            yield (
                f"| {side} {connections} | {run['per_second']:,} | {run['p50_ms']:.2f} "
                f"| {run['p99_ms']:.2f} | {text} |"
            )
    yield ""


def rungs(data: Data) -> Iterator[str]:
    """Yield the feature ladder."""
    if "ladder" not in data:
        return
    yield "## What each feature costs"
    yield ""
    yield "One more switched on in each line; 32 connections; CPU microseconds per request."
    yield ""
    yield "| features | requests/s | node | instances | platform |"
    yield "|---|---|---|---|---|"
    for rung in data["ladder"]["rungs"]:
        if "refused" in rung:
            yield f"| {rung['title']} | not measured: {rung['refused'].splitlines()[0]} | | | |"
            continue
        cpu = rung["cpu_us"]
        yield (
            f"| {rung['title']} | {rung['per_second']:,} | {cpu['node']} | {cpu['instances']} "
            f"| {cpu['platform']} |"
        )
    yield ""


def machines(data: Data) -> Iterator[str]:
    """Yield what the rows were measured on."""
    yield "## Machine"
    yield ""
    seen: dict[str, list[str]] = {}
    for name, row in data.items():
        facts = {k: v for k, v in row["machine"].items() if k not in {"date", "load_before"}}
        text = "; ".join(f"{key} {value}" for key, value in facts.items())
        seen.setdefault(text, []).append(
            f"{name} ({row['machine']['date']}, load {row['machine']['load_before']})"
        )
    for text, names in seen.items():
        yield f"- {text}: {', '.join(names)}"
