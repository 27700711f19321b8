"""The way of one deploy: validate → build → register → warm → switch → drain.

Until the switch nothing of the function that serves has changed; whatever fails before leaves the
old version serving and no trace of the new one but an artifact that the next sweep removes. The
switch is durable first and then one swap in memory, so that no call falls between two versions.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import msgspec

from hearth.build.builder import Builder, Built
from hearth.build.declaration import check, merge
from hearth.build.understanding import Intent, understand
from hearth.config import Settings
from hearth.engine.invoke import Invoker
from hearth.engine.registry import LATEST, Entry, Registry
from hearth.errors import (
    BadInput,
    Conflict,
    DeployFailed,
    InvocationError,
    IsolationUnavailable,
    NotFound,
)
from hearth.model import Clock, Function, Version
from hearth.sandbox.base import Backend
from hearth.store.artifacts import Artifacts
from hearth.store.base import Store

_T = TypeVar("_T")
_NOT_CONTENT = frozenset(
    {"function_id", "number", "digest", "declared", "reasons", "warnings", "created_at"}
)
"""Fields of a version that do not make it another deploy."""


SWEEP_AGE_S = 3600.0
"""Age below which an artifact without a version may still be on its way to one."""


class Deployed(NamedTuple):
    """What a deploy came to."""

    function: Function
    version: Version
    created: bool
    """False: the same deploy was there already."""


class Deployer:
    """Makes versions, one at a time for each function."""

    def __init__(
        self,
        *,
        settings: Settings,
        registry: Registry,
        store: Store,
        artifacts: Artifacts,
        builder: Builder,
        backend: Backend,
        invoker: Invoker,
        clock: Clock,
    ) -> None:
        """Work with these parts of the node."""
        self._settings = settings
        self._registry = registry
        self._store = store
        self._artifacts = artifacts
        self._builder = builder
        self._backend = backend
        self._invoker = invoker
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._under_way = 0

    async def deploy(
        self, declaration: Mapping[str, Any], code: bytes | memoryview | None, *, replace: bool
    ) -> Deployed:
        """Make `declaration` what its name stands for.

        Args:
            declaration: fields as given, `name` among them; see `hearth.build.declaration`.
            code: the JSON string of base64; None keeps the files of the version before.
            replace: the function exists, and the given fields are laid over its own. Otherwise it
                must be new, or exactly the same.

        Raises:
            BadInput: declaration or code is refused (`DeployFailed`); the old version serves on.
            NotFound: `replace`, and there is no such function.
            Conflict: not `replace`, and it exists with other content.
            IsolationUnavailable: the host cannot enforce what is asked for.
            NoCapacity: there is no room to start an instance.
        """
        given = check(dict(declaration))
        # a deploy that has begun is brought to its end, also when its client has gone
        task = self._behind(self._one_at_a_time(given, code, replace=replace))
        return await asyncio.shield(task)

    async def _one_at_a_time(
        self, given: Mapping[str, Any], code: bytes | memoryview | None, *, replace: bool
    ) -> Deployed:
        name = str(given.get("name"))
        self._under_way += 1
        try:
            async with self._lock(name):
                return await self._deploy(self._current(name), given, code, replace=replace)
        finally:
            self._under_way -= 1

    async def _deploy(
        self,
        old: Entry | None,
        given: Mapping[str, Any],
        code: bytes | memoryview | None,
        *,
        replace: bool,
    ) -> Deployed:
        if replace and old is None:
            raise NotFound(f"there is no function {given.get('name')!r}")
        base = old.version.declared if old and replace else {}
        declared, intent = self._validate(base, given)
        built = await self._build(old if replace else None, intent, code)
        function, version = self._register(old, intent, built, declared)
        if old and old.version.digest == version.digest:
            return Deployed(old.function, old.version, created=False)
        if old and not replace:
            raise Conflict(
                f"function {version.function} exists with other content; use "
                f"PUT /functions/{version.function} or `hearth deploy`",
                path="$.name",
            )
        await self._warm(version)
        await self._switch(function, version)
        self._drain(old, version)
        return Deployed(function, version, created=True)

    async def delete(self, ref: str) -> Function:
        """Remove a function by name or id; calls in flight finish first.

        Raises:
            NotFound: there is no such function.
        """
        name = self._registry.entry(ref).function.name
        async with self._lock(name):
            entry = self._registry.entry(name)
            await self._store.delete_function(entry.function.id)
            self._registry.remove(entry.function.id)
            await self._invoker.retire(entry.version, "the function was removed")
            self._invoker.forget(entry.function.name)
        await self.sweep(older_than_s=SWEEP_AGE_S)
        return entry.function

    async def close(self) -> None:
        """Wait for deploys under way and versions that are still draining."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- the six steps -------------------------------------------------------------------------

    def _validate(
        self, base: Mapping[str, Any], given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Intent]:
        declared = merge(base, given)
        return declared, understand(declared, self._settings)

    async def _build(
        self, old: Entry | None, intent: Intent, code: bytes | memoryview | None
    ) -> Built:
        if code is not None:
            built = await self._builder.build(code, intent.recipe)
        elif old is not None:
            built = await self._builder.inspect(old.version.artifact, intent.recipe)
        else:
            raise BadInput("code is missing", path="$.code")
        if intent.limits.instance_concurrency > 1 and not built.is_async:
            raise DeployFailed(
                "instance_concurrency above 1 needs an async handler",
                path="$.instance_concurrency",
            )
        return built

    def _register(
        self, old: Entry | None, intent: Intent, built: Built, declared: dict[str, Any]
    ) -> tuple[Function, Version]:
        """Return the function as it will be, and its new version; nobody sees them yet."""
        now = self._clock.time()
        function_id = old.function.id if old else secrets.token_hex(16)
        number = max(old.versions) + 1 if old else 1
        version = self._enforceable(
            _version(intent, built, function_id=function_id, number=number, declared=declared)
        )
        version = msgspec.structs.replace(version, digest=_digest(version), created_at=now)
        function = Function(
            id=function_id,
            name=version.function,
            created_at=old.function.created_at if old else now,
            updated_at=now,
            aliases={**(old.function.aliases if old else {}), LATEST: number},
        )
        return function, version

    def _enforceable(self, version: Version) -> Version:
        missing = self._backend.missing(version)
        if not missing:
            return version
        if version.isolation_level == "strict":
            raise IsolationUnavailable(
                "this host cannot enforce what isolation_level strict promises: "
                + "; ".join(missing)
            )
        return msgspec.structs.replace(version, warnings=(*version.warnings, *missing))

    async def _warm(self, version: Version) -> None:
        """Prove that the function loads; a script has nothing to load ahead of its call."""
        if version.contract == "script":
            return
        try:
            await self._invoker.warm(version)
        except InvocationError as error:
            await self._invoker.retire(version, "it could not be loaded")
            raise DeployFailed(
                f"{version.function} could not be loaded: {error.message}{_hint(error, version)}",
                limit=error.limit,
                stack=error.stack,
            ) from error
        except BaseException:
            await self._invoker.retire(version, "its deploy was broken off")
            raise

    async def _switch(self, function: Function, version: Version) -> None:
        try:
            await self._store.save_version(function, version)
        except BaseException:
            await self._invoker.retire(version, "it could not be stored")
            raise
        self._registry.install(function, version)
        self._invoker.keep_warm(version)

    def _drain(self, old: Entry | None, version: Version) -> None:
        """Retire the old version behind the answer: its last call may have an hour to go."""
        if old is not None:
            reason = f"replaced by version {version.number}"
            self._behind(self._invoker.retire(old.version, reason))

    # --- around them ---------------------------------------------------------------------------

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _behind(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _current(self, name: str) -> Entry | None:
        entry = self._registry.routes.get(name)
        return entry if entry and entry.function.name == name else None

    async def sweep(self, *, older_than_s: float) -> None:
        """Remove artifacts that no version uses; not while a deploy may be about to use one.

        Args:
            older_than_s: younger ones stay; 0 is right only where no deploy has begun yet.
        """
        if self._under_way:
            return
        entries = self._registry.functions()
        used = {version.artifact for entry in entries for version in entry.versions.values()}
        await asyncio.to_thread(self._artifacts.gc, used, older_than_s=older_than_s)


def _version(
    intent: Intent, built: Built, *, function_id: str, number: int, declared: dict[str, Any]
) -> Version:
    return Version(
        function_id=function_id,
        function=intent.name,
        number=number,
        label=intent.label,
        digest="",
        artifact=built.artifact,
        runtime=intent.runtime,
        entry=built.entry,
        handler=built.handler,
        contract=built.contract,
        mode=intent.mode,
        isolation_level=intent.isolation_level,
        network=intent.network,
        environment=intent.environment,
        limits=intent.limits,
        scale=intent.scale,
        preload=("asyncio",) if built.is_async else (),
        reasons=(*built.reasons, *intent.reasons),
        warnings=(*intent.warnings, *built.warnings),
        declared=declared,
    )


def _digest(version: Version) -> str:
    """Return the SHA-256 (hex) over what makes two deploys the same."""
    content = msgspec.to_builtins(version)
    for field in _NOT_CONTENT:
        del content[field]
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


def _hint(error: InvocationError, version: Version) -> str:
    if "ModuleNotFoundError" in (error.stack or error.message) and "dependencies" in str(
        version.warnings
    ):
        return " (dependencies are not installed yet: put the packages into the bundle)"
    return ""
