"""Everything a node can be told; the docstrings are the reference in `docs/configuration.md`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hearth.config.units import Bytes, Cores, Seconds

Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Namespace = Literal["pid", "mount", "user", "network", "ipc", "uts", "cgroup"]


class Execution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How calls are run, whatever the mode."""

    default_mode: Literal["process", "container", "auto"] = "process"
    """Mode of functions that name none; `WORKER_USE_CONTAINER` overrides it."""
    max_concurrent_functions: Count = 1000
    """Most invocations in flight on the node at once."""
    cold_start_timeout: Seconds = Seconds(30)
    """How long a new instance may take until it can be called."""
    warm_instance_ttl: Seconds = Seconds(600)
    """How long an idle instance of a function is kept that declares no `scale.idle_ttl`."""
    max_instances: Count = 4000
    """Most live instances; idle ones of other functions are evicted first."""
    memory_reserve: Bytes = Bytes(256 << 20)
    """No instance is started while the machine's available memory is below this."""
    shutdown_grace: Seconds = Seconds(30)
    """How long calls in flight may go on after SIGTERM."""


class Container(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Container mode."""

    runtime: Literal["docker", "containerd", "oci"] = "docker"
    """Which engine makes containers."""
    base_image: str = "python:3.11-slim"
    """Image of functions that name none."""
    memory_limit: Bytes = Bytes(128 << 20)
    """Memory of a function that asks for none."""
    cpu_limit: Cores | None = None
    """Hard CPU quota of a function that asks for none; none: a weight proportional to memory."""


class Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Process mode."""

    isolation_level: Literal["strict", "lightweight"] = "strict"
    """`strict` refuses to run what the host cannot enforce; `lightweight` says what is weaker."""
    namespace_types: tuple[Namespace, ...] = ("pid", "mount", "user")
    """A minimum; `strict` adds the rest."""
    memory_limit: Bytes = Bytes(128 << 20)
    """Memory of a function that asks for none when it is deployed; its version keeps that."""
    cpu_limit: Cores | None = None
    """Hard CPU quota of a function that asks for none when deployed; none: a weight by memory."""
    spares: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 8
    """Sandboxes kept ready per zygote."""
    uid_base: Annotated[int, msgspec.Meta(ge=1000, le=4_294_000_000)] = 1_879_048_192
    """First host uid given to instances; two for each."""
    lease_grace: Seconds = Seconds(0)
    """How long sandboxes outlive their node."""


class Gateway(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The public listener."""

    host: str = "127.0.0.1"
    """Address to listen on; any other than loopback needs an API key to exist first."""
    port: Port = 8080
    """Port to listen on; 0: any free one."""
    max_body: Bytes = Bytes(16 << 20)
    """Largest request body."""
    max_header_bytes: Bytes = Bytes(32 << 10)
    """Largest request head."""
    max_headers: Count = 100
    """Most header lines of a request."""
    header_timeout: Seconds = Seconds(10)
    """A request's head must be complete within this."""
    body_timeout: Seconds = Seconds(60)
    """A request's body must be complete within this."""
    idle_timeout: Seconds = Seconds(75)
    """A connection without a request is closed after this."""
    max_connections: Count = 10_000
    """Most open client connections."""
    rate_limit: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Requests per second and key; none: unlimited."""
    rate_burst: Count = 100
    """Requests that may come at once before `rate_limit` bites."""


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control API."""

    listen: str | None = None
    """`host:port` of a second listener that then alone serves the control API."""


class Queue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asynchronous invocations."""

    max_depth: Count = 100_000
    """Most accepted calls waiting; one more is refused with 429."""
    max_bytes: Bytes = Bytes(1 << 30)
    """Most bytes that accepted calls take while they wait; beyond it they are refused with 429."""
    concurrency: Count = 100
    """Most queued calls running at once on the node."""
    max_attempts: Count = 3
    """Runs of one call, counting those a dead node began."""


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long records, results and logs are kept; whichever limit is reached first."""

    max_age: Seconds = Seconds(7 * 86400)
    """Age at which a record is removed."""
    max_count: Count = 1_000_000
    """Most records kept."""
    max_bytes: Bytes = Bytes(1 << 30)
    """Most bytes of records, results and logs kept."""
    result_bytes: Bytes = Bytes(64 << 10)
    """Longest result kept in one record."""
    log_bytes: Bytes = Bytes(256 << 10)
    """Longest log kept for one invocation."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The node itself."""

    data_dir: str = "./data"
    """Everything that must survive a restart."""
    work_dir: str | None = None
    """Temporary files; none: `work` below `data_dir`. `WORKER_WORK_DIR` overrides it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line of the node's own log."""
    execution: Execution = Execution()
    container: Container = Container()
    process: Process = Process()
    gateway: Gateway = Gateway()
    control: Control = Control()
    queue: Queue = Queue()
    retention: Retention = Retention()
