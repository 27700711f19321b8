"""Cold starts of process mode without a gateway: start → ready → first reply, in milliseconds.

Run as root: `python bench/process_cold_start.py [starts] [spares]`. Every start is another function
of about 90 lines with bytecode, 20 ms after the one before has ended.
"""

from __future__ import annotations

import asyncio
import json
import py_compile
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from hearth.config import Process, Settings
from hearth.model import Version
from hearth.sandbox.base import CallRequest
from hearth.sandbox.process import ProcessBackend

GAP_S = 0.02
SOURCE = "import json\nimport os\n\n" + "\n".join(
    f"def step{n}(x):\n    return x + {n}\n" for n in range(28)
)
HANDLER = "\ndef handle(request):\n    return {'hello': request.json['name']}\n"


class Start:
    """Listens to one instance and its only call."""

    def __init__(self) -> None:
        """Wait on the running loop."""
        loop = asyncio.get_running_loop()
        self.ready, self.reply, self.gone = (loop.create_future() for _ in range(3))
        self.init_ns = 0

    def on_ready(self, instance: Any, init_ns: int) -> None:
        """Note the time that loading took."""
        self.init_ns = init_ns
        self.ready.set_result(None)

    def on_output(self, *event: Any) -> None:
        """Ignore output."""

    def on_reply(self, status: int, headers: bytes, body: bytes) -> None:
        """Take the answer."""
        self.reply.set_result(body)

    def on_gone(self, instance: Any, end: Any) -> None:
        """Take the end."""
        self.gone.set_result(end)


def write_function(directory: Path) -> str:
    """Make one more function; return its directory."""
    directory.mkdir()
    path = directory / "handler.py"
    path.write_text(SOURCE + HANDLER)
    py_compile.compile(
        str(path), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH, doraise=True
    )
    return str(directory)


def version(name: str) -> Version:
    """Describe a function."""
    return Version(
        function_id=name, function=name, number=1, label="", digest="", artifact="",
        runtime="python3.11", entry="handler.py", handler="handle", contract="handler",
    )  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    """Return percentiles."""
    values = sorted(values)
    return {
        f"p{q}": round(values[min(len(values) - 1, len(values) * q // 100)], 3)
        for q in (50, 90, 99)
    }


async def measure(starts: int, spares: int, directory: Path) -> dict[str, Any]:
    """Start that many functions one after another."""
    settings = Settings(process=Process(spares=spares))
    backend = ProcessBackend(settings, asyncio.get_running_loop(), str(directory / "run"))
    await backend.open()
    await asyncio.sleep(0.5)
    phases: dict[str, list[float]] = {"ready": [], "loading": [], "first_reply": []}
    for n in range(starts):
        code = write_function(directory / f"f{n}")
        await asyncio.sleep(GAP_S)
        begun, start = time.perf_counter(), Start()
        instance = backend.start(version(f"f{n}"), code, start)
        await start.ready
        phases["ready"].append((time.perf_counter() - begun) * 1e3)
        request = CallRequest("1", b"POST", b"/", b"", b"", b'{"name": "x"}', time.time() + 9)
        instance.call(request, start)
        await start.reply
        phases["first_reply"].append((time.perf_counter() - begun) * 1e3)
        phases["loading"].append(start.init_ns / 1e6)
        instance.stop("measured")
        await start.gone
    await backend.close()
    return {name: spread(values) for name, values in phases.items()}


def main() -> None:
    """Print one JSON object."""
    starts = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    spares = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as directory:
        Path(directory).chmod(0o755)
        result = uvloop.run(measure(starts, spares, Path(directory)))
    print(json.dumps({"starts": starts, "spares": spares, "ms": result}))


if __name__ == "__main__":
    main()
