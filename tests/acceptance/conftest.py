"""One real node for the tests that do not need one of their own."""

from __future__ import annotations

import contextlib
import itertools

import pytest

from nodes import running_node

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    with running_node(tmp_path_factory.mktemp("node") / "data") as node:
        yield node


@pytest.fixture
def name():
    """A function name that no other test uses."""
    return f"f{next(_numbers)}"


@pytest.fixture
def own_node(tmp_path):
    """Start nodes of the test's own: `own_node(execution_shutdown_grace="1s")`."""
    with contextlib.ExitStack() as stack:

        def start(*, directory="own", **options):
            return stack.enter_context(running_node(tmp_path / directory, **options))

        yield start
