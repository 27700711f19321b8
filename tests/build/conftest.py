"""A builder over real artifacts, and what came of the code given to it."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import pytest

from hearth.build.builder import Builder, Recipe
from hearth.errors import DeployFailed
from hearth.store.artifacts import Artifacts


class Workshop:
    def __init__(self, path: Path) -> None:
        self.artifacts = Artifacts(path / "artifacts")
        self.work = path / "work"
        self.builder = Builder(self.artifacts, self.work)

    def build(self, code, **recipe):
        literal = b'"' + base64.b64encode(code.encode() if isinstance(code, str) else code) + b'"'
        return asyncio.run(self.builder.build(literal, Recipe(**recipe)))

    def refusal(self, code, **recipe):
        root = self.artifacts.path("0" * 64).parent
        before = os.listdir(root)
        with pytest.raises(DeployFailed) as caught:
            self.build(code, **recipe)
        assert os.listdir(root) == before
        assert os.listdir(self.work) == []
        return caught.value

    def files(self, built):
        root = self.artifacts.path(built.artifact)
        found = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
        return {name: path for name, path in found.items() if "__pycache__" not in name}


@pytest.fixture
def shop(tmp_path):
    workshop = Workshop(tmp_path)
    yield workshop
    workshop.builder.close()
