"""Runs pytest inside a Debian guest that has cgroup v2 and nothing else, under QEMU.

    tests/guest/run.py [--as root|user|delegated ...] [--limit S] [-- PYTEST_ARGS]

Without arguments: the suites that must hold on such a system, as root, as an ordinary user, and as
one who has been given a control group (`delegated`, what systemd does for a user's services). Root
has a guest of its own, so that both of the machine's processors are used; lines then say whose they
are.

Exit codes: pytest's own (the worst of the accounts), 124 when the time limit passed (the emulator
is killed), 125 when the guest could not be built or ended without a verdict. `HEARTH_TEST_SLOW`
tells the tests by what factor to stretch their own timeouts: the processor is emulated.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from image import CACHE, HOME, PROJECT, GuestError, image, kernel

SLOW = 12  # emulated against real: 10 times for a Python loop, 12 for starting an interpreter
PARTS = ("src", "tests", "examples", "bench", "docs", "pyproject.toml", "README.md", "Makefile")
KERNEL = ("guest/inside", "linux", "sandbox/process", "sandbox/test_contract.py")
SUITES = {
    "root": (*KERNEL, "escape", "kill"),
    "user": (*KERNEL, "escape"),
    "delegated": (*KERNEL,),
}
"""What depends on the kernel; the rest of tests/ says nothing new on an emulated processor."""
KILLS = 10
"""Of the kill suite's 200: a start of a node takes seconds here."""
TEST_LIMIT_S = 240
"""For one test: the log then shows which one hangs, and where, before the whole limit is gone."""
TERMINAL = threading.Lock()
DELEGATE = """
group=/sys/fs/cgroup/session
mkdir -p $group
echo '+cpu +memory +pids +io' >/sys/fs/cgroup/cgroup.subtree_control
chown user:user $group $group/cgroup.procs $group/cgroup.threads $group/cgroup.subtree_control
echo 0 >$group/cgroup.procs
"""


def main() -> int:
    """Build what is missing, boot, run, report."""
    options = arguments()
    started = time.monotonic()
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with locked(CACHE / "lock"):
            linux = kernel()
            disk = image(linux)
        with tempfile.TemporaryDirectory(prefix="hearth-guest-") as scratch:
            verdict = max(run(disk, linux, Path(scratch), options))
    except GuestError as error:
        print(f"guest: {error}", file=sys.stderr)
        return 125
    print(f"guest: exit code {verdict} after {time.monotonic() - started:.0f} s", flush=True)
    return verdict


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--as",
        dest="accounts",
        action="append",
        choices=list(SUITES),
        help="account to run pytest as; may be repeated",
    )
    parser.add_argument("--limit", type=float, default=900, help="seconds until it is killed")
    parser.add_argument("--memory", type=int, default=3072, help="MiB")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    options.accounts = options.accounts or (["root"] if options.pytest else list(SUITES))
    return options


def run(disk: Path, linux: Path, scratch: Path, options: argparse.Namespace) -> list[int]:
    """Boot the guests side by side and return their verdicts."""
    ordinary = [account for account in options.accounts if account != "root"]
    guests = [["root"]] * ("root" in options.accounts) + [ordinary] * bool(ordinary)

    def one(accounts: list[str]) -> int:
        place = scratch / accounts[0]
        place.mkdir()
        pack(place / "project.tar", job(options, accounts))
        return boot(disk, linux, place, options, prefix=f"{accounts[0]}| " * (len(guests) > 1))

    with ThreadPoolExecutor(len(guests)) as threads:
        return list(threads.map(one, guests))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time build the image."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def job(options: argparse.Namespace, accounts: list[str]) -> str:
    """Return the shell script that the guest runs; its exit code is the verdict."""
    environment = {
        "HEARTH_TEST_SLOW": str(SLOW),
        "HEARTH_TEST_GUEST": "cgroup-v2",
        "HEARTH_TEST_KILLS": str(KILLS),
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",  # inside the guest
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # importing those that go unused takes many seconds
        "CI": os.environ.get("CI", ""),
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items() if value]
    lines.append("worst=0")
    for account in accounts:
        lines += [f"echo; echo 'guest: pytest as {account}'", "("]
        command = f"{HOME}/.venv/bin/python -m pytest {shlex.join(pytest(options, account))}"
        if account != "root":
            lines += [DELEGATE] if account == "delegated" else []
            lines.append("export HOME=/home/user USER=user PYTHONDONTWRITEBYTECODE=1")
            drop = "setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all"
            command = f"{drop} {command}"
        lines += [
            f"exec {command}",
            ") </dev/null",
            "code=$?",
            "[ $code -le $worst ] || worst=$code",
            f"echo \"guest: {account} ended with $code, up $(cut -d' ' -f1 /proc/uptime) s\"",
        ]
    return "\n".join([*lines, "exit $worst", ""])


def pytest(options: argparse.Namespace, account: str) -> list[str]:
    """Return pytest's arguments: a line for every test, so that a log shows where it is."""
    common = ["-p", "pytest_timeout", "-o", f"timeout={TEST_LIMIT_S}", "-p", "no:cacheprovider"]
    suites = [f"tests/{name}" for name in SUITES[account] if (PROJECT / "tests" / name).exists()]
    return [*common, "--color=no", "-vv", "--durations=8", *(options.pytest or suites)]


def pack(path: Path, script: str) -> None:
    """Write the project and the job as a tar file, which the guest reads as a raw disk.

    Byte code goes along: it is valid there, and compiling is slow on an emulated processor.
    """
    with tarfile.open(path, "w") as tar:
        for part in PARTS:
            if (PROJECT / part).exists():
                tar.add(PROJECT / part, arcname=part)
        note = path.with_name("job")
        note.write_text(script)
        tar.add(note, arcname=".guest-job")


def boot(
    disk: Path, linux: Path, scratch: Path, options: argparse.Namespace, *, prefix: str
) -> int:
    """Run a guest to its end and return its verdict; nothing of it outlives this call."""
    project, verdict = scratch / "project.tar", scratch / "verdict"
    emulator = subprocess.Popen(
        command(disk, linux, project, verdict, options.memory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    late = threading.Event()

    def kill() -> None:
        late.set()
        emulator.kill()

    timer = threading.Timer(options.limit, kill)
    timer.start()
    try:
        assert emulator.stdout is not None
        for line in emulator.stdout:
            with TERMINAL:
                sys.stdout.buffer.write(prefix.encode() + line.replace(b"\r", b""))
                sys.stdout.buffer.flush()
    finally:
        timer.cancel()
        emulator.kill()
        emulator.wait()
    if late.is_set():
        print(f"guest: {prefix}killed after the limit of {options.limit:.0f} s", file=sys.stderr)
        return 124
    name, _, code = verdict.read_text().strip().partition("=") if verdict.exists() else ("", "", "")
    if name != "verdict" or not code.isdigit():
        raise GuestError("the guest ended without a verdict (a kernel panic is shown above)")
    return int(code)


def command(disk: Path, linux: Path, project: Path, verdict: Path, memory: int) -> list[str]:
    """Return the emulator's command line. NVMe and serial ports are built into Debian's cloud
    kernel, so no initramfs is needed; writes to the disk are thrown away at the end."""
    init = os.environ.get("HEARTH_GUEST_INIT", "/init")  # another one shows how a panic is reported
    kernel_line = (
        f"console=ttyS0 root=/dev/nvme0n1 rw init={init} quiet panic=-1 cgroup_no_v1=all "
        "mitigations=off random.trust_cpu=on loglevel=3"
    )
    return [
        *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(memory)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(linux), "-append", kernel_line),
        *("-drive", f"if=none,id=root,format=raw,snapshot=on,cache=unsafe,file={disk}"),
        *("-device", "nvme,drive=root,serial=root"),
        *("-drive", f"if=none,id=project,format=raw,readonly=on,file={project}"),
        *("-device", "nvme,drive=project,serial=project"),
        *("-serial", "stdio", "-serial", f"file:{verdict}"),
    ]


if __name__ == "__main__":
    sys.exit(main())
