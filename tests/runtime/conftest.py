from __future__ import annotations

import importlib.util
import sys
import textwrap
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("runtime_peer", Path(__file__).with_name("peer.py"))
peer = importlib.util.module_from_spec(_spec)
sys.modules["runtime_peer"] = peer
_spec.loader.exec_module(peer)


@pytest.fixture
def start(tmp_path):
    """Start a host for an entry module (and more files); INIT is sent, nothing read."""
    hosts = []

    def start(source="", *, entry="handler.py", files=None, root=None, **init):
        root = root or tmp_path
        for name, text in {entry: source, **(files or {})}.items():
            if text:
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(textwrap.dedent(text))
        host = peer.Host(root, entry=entry, **init)
        hosts.append(host)
        return host

    yield start
    for host in hosts:
        host.close()


@pytest.fixture
def load(start):
    """Start a host and wait until it is ready."""

    def load(source="", **init):
        host = start(source, **init)
        host.ready()
        return host

    return load
