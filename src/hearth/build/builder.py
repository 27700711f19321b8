"""Feed the build process and take what it made.

The node's event loop only waits: the code goes to the build process as a file, unpacking, hashing
and compiling happen there, and the few system calls here run in threads of their own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec

from hearth.build.template import Template
from hearth.errors import DeployFailed
from hearth.store.artifacts import Artifacts

BUILD_UID = 65534
"""The user that unpacks and compiles where the node is root."""
CONCURRENCY = 2


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a build needs to know of the declaration; empty text: not given."""

    handler: str = ""
    entry: str = ""
    contract: str = ""


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What a build found out and made."""

    contract: Literal["handler", "script"]
    entry: str
    handler: str
    is_async: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    artifact: str = ""
    """SHA-256 (hex) of the unpacked files, installed below the artifacts."""


class _Error(msgspec.Struct, frozen=True):
    message: str
    path: str | None = None
    limit: str | None = None
    stack: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    ok: Built | None = None
    error: _Error | None = None


class Builder:
    """Turns code into artifacts, at most `CONCURRENCY` at once."""

    def __init__(self, artifacts: Artifacts, work_dir: Path) -> None:
        """Install into `artifacts`; code that is being built waits below `work_dir`."""
        self._artifacts = artifacts
        self._work_dir = work_dir
        self._threads = ThreadPoolExecutor(CONCURRENCY, "build")
        self._template = Template()

    async def build(self, code: bytes | memoryview, recipe: Recipe) -> Built:
        """Unpack, compile and install `code` (a JSON string of base64); say how it is spoken to.

        Raises:
            DeployFailed: the code is refused; nothing is left behind.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._build, code, recipe)

    async def inspect(self, artifact: str, recipe: Recipe) -> Built:
        """Say how files that are installed already are spoken to under another recipe.

        Raises:
            DeployFailed: they do not have what the recipe names.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._inspect, artifact, recipe)

    def close(self) -> None:
        """Wait for builds under way and let the threads go."""
        self._threads.shutdown()
        self._template.close()

    def _build(self, code: bytes | memoryview, recipe: Recipe) -> Built:
        self._work_dir.mkdir(parents=True, exist_ok=True)
        staged = self._artifacts.stage()
        try:
            with tempfile.TemporaryFile(dir=self._work_dir) as file:
                file.write(code)
                file.seek(0)
                built = self._run(staged, recipe, _hand_over(staged), file.fileno())
            self._artifacts.install(staged, built.artifact)
            return built
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _inspect(self, artifact: str, recipe: Recipe) -> Built:
        uid = BUILD_UID if os.geteuid() == 0 else None
        built = self._run(self._artifacts.path(artifact), recipe, uid, None)
        return msgspec.structs.replace(built, artifact=artifact)

    def _run(self, folder: Path, recipe: Recipe, uid: int | None, code_fd: int | None) -> Built:
        job = {**msgspec.to_builtins(recipe), "uid": uid, "unpack": code_fd is not None}
        out = self._template.build(job, folder, code_fd)
        if not out:
            raise DeployFailed("the build process ended without an answer")
        return _understand(out)


def _hand_over(staging: Path) -> int | None:
    if os.geteuid() != 0:
        return None
    os.chown(staging, BUILD_UID, BUILD_UID)
    return BUILD_UID


def _understand(out: bytes) -> Built:
    answer = msgspec.json.decode(out, type=_Answer)
    if answer.ok is not None:
        return answer.ok
    error = answer.error or _Error("the build process gave no answer")
    raise DeployFailed(error.message, path=error.path, limit=error.limit, stack=error.stack)
