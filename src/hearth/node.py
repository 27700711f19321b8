"""The composition root: build the parts from Settings, start in order, stop in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import msgspec
import uvloop

from hearth.build.builder import Builder
from hearth.config import Settings
from hearth.control.app import make_app
from hearth.control.parts import Parts
from hearth.engine.deploy import Deployer
from hearth.engine.invoke import Invoker
from hearth.engine.queue import Queue
from hearth.engine.registry import Registry
from hearth.errors import ConfigError
from hearth.gateway.auth import Authenticator, check_binding, is_loopback
from hearth.gateway.limits import RateLimiter
from hearth.gateway.peer import PeerGuard
from hearth.gateway.pipeline import Pipeline
from hearth.gateway.server import Server
from hearth.model import Function, SystemClock
from hearth.sandbox.process import ProcessBackend
from hearth.store.artifacts import Artifacts
from hearth.store.sqlite import SqliteStore
from hearth.telemetry import logs
from hearth.telemetry.audit import Auditor
from hearth.telemetry.metrics import Metrics, PoolSample

_GC_THRESHOLDS = (50_000, 20, 50)
"""The request path makes no reference cycles, so the collector may look less often."""


def run(settings: Settings, warnings: list[str]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises:
        ConfigError: the address cannot be served, the data directory cannot be used, or another
            node uses it.
        IsolationUnavailable: the host cannot enforce what the settings promise.
    """
    logs.configure(settings.log_level)
    _raise_descriptor_limit()
    uvloop.run(_serve(settings, warnings))
    return 0


async def _serve(settings: Settings, warnings: list[str]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Node(settings, warnings).running() as node:
        logs.get_logger("node").info("ready", url=node.url, warnings=len(warnings))
        await stop.wait()


class Node:
    """One Hearth process tree and the order in which its parts live and die."""

    def __init__(self, settings: Settings, warnings: list[str]) -> None:
        """Nothing is started before `running`."""
        self.settings = settings
        self._warnings = tuple(warnings)
        self._data = Path(settings.data_dir)
        self._log = logs.get_logger("node")
        self._ready = False
        self._servers: list[Server] = []

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        host = self.settings.gateway.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._servers[0].port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        """Start everything; on leaving, drain within the grace time and stop everything."""
        for warning in self._warnings:
            self._log.warning("setting", detail=warning)
        async with contextlib.AsyncExitStack() as stack:
            await self._start_storage(stack)
            await self._start_engine(stack)
            await self._start_listeners(stack)
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
            self._ready = True
            yield self
            self._ready = False
            self._log.info("draining", grace_s=float(self.settings.execution.shutdown_grace))

    # --- start, in order -----------------------------------------------------------------------

    async def _start_storage(self, stack: contextlib.AsyncExitStack) -> None:
        _make_data_dir(self._data)
        self.clock = SystemClock()
        self.store = SqliteStore(self._data / "hearth.db", self.settings.retention, self.clock)
        await self.store.open()
        stack.push_async_callback(self.store.close)
        self.artifacts = Artifacts(self._data / "artifacts")
        used = await self.store.referenced()  # a node that was killed may have left others
        await asyncio.to_thread(self.artifacts.gc, used, older_than_s=0)
        self.registry = Registry(await self.store.load_functions())
        self.keys = Authenticator(await self.store.load_keys())
        check_binding(self.settings.gateway.host, self.keys.has_keys)

    async def _start_engine(self, stack: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        settings = self.settings
        self.backend = ProcessBackend(settings, loop, str(self._data / "run"))
        await self.backend.open()
        stack.push_async_callback(self.backend.close)
        self.metrics = Metrics()
        self.invoker = Invoker(
            settings,
            self.backend,
            timers=loop,
            registry=self.registry,
            code_of=lambda version: str(self.artifacts.path(version.artifact)),
            observer=self.metrics,
            on_records=(self.store.add_records,),
            clock=self.clock,
        )
        self.queue = Queue(
            settings.queue,
            store=self.store,
            registry=self.registry,
            invoker=self.invoker,
            clock=self.clock,
        )
        builder = Builder(self.artifacts, Path(settings.work_dir or self._data / "work"))
        stack.callback(builder.close)
        self.deployer = Deployer(
            settings=settings,
            registry=self.registry,
            store=self.store,
            artifacts=self.artifacts,
            builder=builder,
            backend=self.backend,
            invoker=self.invoker,
            clock=self.clock,
        )
        stack.push_async_callback(self.deployer.close)
        await self.deployer.sweep(older_than_s=0)  # of deploys that a dead node broke off
        self._expose_metrics()
        await self.queue.start()
        stack.push_async_callback(self.queue.close)
        for entry in self.registry.functions():
            self.invoker.keep_warm(entry.version)

    async def _start_listeners(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.settings
        limiter = RateLimiter(settings.gateway.rate_limit, settings.gateway.rate_burst, self.clock)
        app = make_app(self._parts())
        separate = settings.control.listen is not None
        guard = PeerGuard(settings.process.uid_base)
        public = Pipeline(
            authenticator=self.keys,
            limiter=limiter,
            host=settings.gateway.host,
            registry=self.registry,
            invoker=self.invoker,
            enqueue=self.queue.enqueue,
            app=None if separate else app,
            guard=guard,
        )
        await self._listen(public, settings)
        if separate:
            host, port = _address(settings.control.listen or "")
            check_binding(host, self.keys.has_keys)
            private = Pipeline(
                authenticator=self.keys, limiter=limiter, host=host, app=app, guard=guard
            )
            await self._listen(private, _with_address(settings, host, port))
        stack.push_async_callback(self._drain)

    async def _listen(self, pipeline: Pipeline, settings: Settings) -> None:
        server = Server(pipeline, settings.gateway, asyncio.get_running_loop())
        try:
            await server.start()
        except OSError as error:
            where = f"{settings.gateway.host}:{settings.gateway.port}"
            raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from None
        self._servers.append(server)

    # --- stop ----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Take no new work, let what runs end within the grace time, then cut the rest."""
        grace_s = float(self.settings.execution.shutdown_grace)
        await self.queue.stop()
        await asyncio.gather(
            *(server.drain(grace_s) for server in self._servers), self.invoker.drain(grace_s)
        )

    # --- what the control API asks for ---------------------------------------------------------

    def _parts(self) -> Parts:
        settings = self.settings
        hosts = [settings.gateway.host]
        if settings.control.listen:
            hosts.append(_address(settings.control.listen)[0])
        return Parts(
            settings=settings,
            registry=self.registry,
            deployer=self.deployer,
            invoker=self.invoker,
            queue=self.queue,
            store=self.store,
            keys=self.keys,
            audit=Auditor(self.store.add_audit, self.clock),
            clock=self.clock,
            render_metrics=self.metrics.render,
            not_ready=self._not_ready,
            loopback_only=all(is_loopback(host) for host in hosts),
            warnings=self._warnings,
            instances=self._instances,
        )

    def _not_ready(self) -> tuple[str, ...]:
        reasons = []
        if not self._ready:
            reasons.append("The node is starting or shutting down.")
        if not self.queue.alive:
            reasons.append("The dispatcher of asynchronous calls is not running.")
        if not self.backend.alive:
            reasons.append("The spawner is not running; it is being restarted.")
        return tuple(reasons)

    def _instances(self, function: Function) -> Mapping[str, int]:
        total: dict[str, int] = {}
        for pool in self.invoker.pools():
            if pool.version.function_id == function.id:
                counts = pool.counts()
                del counts["waiting"]
                for state, count in counts.items():
                    total[state] = total.get(state, 0) + count
        return total

    def _expose_metrics(self) -> None:
        metrics = self.metrics
        metrics.expose_pools(self._pool_samples)
        metrics.expose(
            "hearth_async_queue_depth",
            "Asynchronous calls queued or running.",
            lambda: self.queue.depth,
        )
        metrics.expose(
            "hearth_async_queue_bytes",
            "Bytes of asynchronous calls queued or running.",
            lambda: self.queue.bytes,
        )
        metrics.expose(
            "hearth_records_dropped_total",
            "Records of synchronous calls lost because the disk could not follow.",
            lambda: self.store.records_dropped,
            kind="counter",
        )
        metrics.expose(
            "hearth_http_connections",
            "Open client connections.",
            lambda: sum(len(server.connections) for server in self._servers),
        )

    def _pool_samples(self) -> Iterator[PoolSample]:
        for pool in self.invoker.pools():
            counts = pool.counts()
            queued = counts.pop("waiting")
            memory, cpu = pool.usage()
            yield PoolSample(pool.version.function, queued, counts, memory, cpu)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"control.listen: {listen!r} is not `host:port`, e.g. 127.0.0.1:8081")
    return host.strip("[]"), int(port)


def _with_address(settings: Settings, host: str, port: int) -> Settings:
    gateway = msgspec.structs.replace(settings.gateway, host=host, port=port)
    return msgspec.structs.replace(settings, gateway=gateway)


def _make_data_dir(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data_dir {path} cannot be made: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"data_dir {path} cannot be written by this account")


def _raise_descriptor_limit() -> None:
    """Each instance costs the node three descriptors, each connection one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if os.geteuid() == 0 else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
