"""The table of attempts: what is tried, and which wall stops it."""

import os
from typing import NamedTuple

ATTEMPTS = {}
MACHINE_ROOT = ("seccomp", "capabilities", "uid", "user")
"""The walls between user code and the rights of the machine's own root."""
BY_CAPABILITY = "the kernel also asks for a capability, which a uid or user namespace takes away"
BY_OWNER = "the file also belongs to the machine's root"


class Attempt(NamedTuple):
    """One attempt. `run` gets what was planted outside and returns evidence of an escape.

    Nothing, or an OSError, means it was stopped; any other exception is a mistake in the attempt.
    """

    name: str
    module: str
    run: object
    off: frozenset
    """The walls to leave out for the positive control."""
    why: str
    """Why it takes more than one."""
    limits: dict
    dies: bool
    """Stopping it means that the instance ends, out of memory."""
    user_off: frozenset
    """As `off`, where the node runs as an ordinary user; empty: only root can show that."""
    weaker: str
    """What an ordinary user's node cannot stop, and why."""
    machine: str | None
    """The only architecture where it means something."""
    needs: object
    """Asked where the tests run: False where the machine itself has nothing to reach."""


def has_file(path):
    """Not every kernel is built with every file of /proc."""
    return lambda: os.path.exists(path)


def root_has_capability(number):
    """The root of a virtual machine or container may lack some."""

    def look():
        with open("/proc/self/status", encoding="ascii") as status:
            return int(status.read().split("CapEff:\t")[1].split()[0], 16) >> number & 1

    return look


def attempt(
    *off,
    why="",
    limits=None,
    dies=False,
    user_off=None,
    root_only=False,
    weaker="",
    machine=None,
    needs=None,
):
    """Enter a function into the table."""

    def enter(run):
        module = run.__module__.rpartition(".")[2]
        user = () if root_only else off if user_off is None else user_off
        ATTEMPTS[run.__name__] = Attempt(
            name=run.__name__,
            module=module,
            run=run,
            off=frozenset(off),
            why=why,
            limits=limits or {},
            dies=dies,
            user_off=frozenset(user),
            weaker=weaker,
            machine=machine,
            needs=needs or (lambda: True),
        )
        return run

    return enter
