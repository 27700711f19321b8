"""Artifacts: named by content, whole or absent, never outside their directory."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hearth.errors import NotFound, StoreError
from hearth.store.artifacts import Artifacts

DIGEST = hashlib.sha256(b"bundle").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(tmp_path / "artifacts")


def staged(artifacts):
    directory = artifacts.stage()
    (directory / "pkg").mkdir()
    (directory / "handler.py").write_text("def handle(request): ...")
    (directory / "pkg" / "tool.sh").write_text("#!/bin/sh\n")
    (directory / "pkg" / "tool.sh").chmod(0o755)
    return directory


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("digest", ["", "..", "../../etc/passwd", DIGEST.upper(), DIGEST + "\n"])
def test_what_is_no_digest_never_becomes_a_path(artifacts, digest):
    with pytest.raises(NotFound):
        artifacts.path(digest)


def test_an_installed_artifact_is_read_only_and_keeps_its_content(artifacts):
    path = artifacts.install(staged(artifacts), DIGEST)
    assert path == artifacts.path(DIGEST)
    assert (path / "handler.py").read_text().startswith("def handle")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (path, *path.rglob("*"))}
    assert modes == {DIGEST: 0o555, "pkg": 0o555, "handler.py": 0o444, "tool.sh": 0o555}
    assert names(path.parent) == [DIGEST]


def test_installing_the_same_artifact_again_keeps_the_first(artifacts):
    first = artifacts.install(staged(artifacts), DIGEST)
    inode = first.stat().st_ino
    again = artifacts.install(staged(artifacts), DIGEST)
    assert again.stat().st_ino == inode
    assert names(first.parent) == [DIGEST]


@pytest.mark.parametrize("target", ["/etc/passwd", "/etc", "handler.py"])
def test_links_are_refused_and_what_they_point_to_is_untouched(artifacts, target):
    before = os.stat("/etc/passwd").st_mode, os.stat("/etc").st_mode
    directory = staged(artifacts)
    (directory / "pkg" / "link").symlink_to(target)
    with pytest.raises(StoreError, match="is not a plain file"):
        artifacts.install(directory, DIGEST)
    assert names(directory.parent) == []
    assert before == (os.stat("/etc/passwd").st_mode, os.stat("/etc").st_mode)


def test_pipes_are_refused_without_waiting_for_a_writer(artifacts):
    directory = staged(artifacts)
    os.mkfifo(directory / "pipe")
    with pytest.raises(StoreError, match="is not a plain file"):
        artifacts.install(directory, DIGEST)
    assert names(directory.parent) == []


def test_gc_removes_read_only_artifacts_and_leftovers(artifacts):
    kept = artifacts.install(staged(artifacts), DIGEST)
    artifacts.install(staged(artifacts), OTHER)
    staged(artifacts)
    assert artifacts.gc({DIGEST}) == 0, "they are young"
    assert artifacts.gc({DIGEST}, older_than_s=-1) == 2
    assert names(kept.parent) == [DIGEST]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_can_remove_a_read_only_artifact(artifacts):
    path = artifacts.install(staged(artifacts), DIGEST)
    child = os.fork()
    if child == 0:
        # No exec and no absolute path: an ordinary user may not read the way to either.
        try:
            for entry in (path.parent, path, *path.rglob("*")):
                os.chown(entry, 65534, 65534)
            os.chdir(path.parent)
            os.setgroups([])
            os.setuid(65534)
            os._exit(Artifacts(Path()).gc(set(), older_than_s=-1))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert not path.exists()


def test_a_failed_install_leaves_nothing_and_says_why(artifacts, monkeypatch):
    def full(_fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    directory = staged(artifacts)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        artifacts.install(directory, DIGEST)
    assert names(directory.parent) == []


def test_gc_keeps_what_is_not_ours_and_what_was_installed_again(artifacts):
    root = artifacts.install(staged(artifacts), DIGEST).parent
    (root / "README").touch()
    for name in (DIGEST, "README"):
        os.utime(root / name, (0, 0))
    artifacts.install(staged(artifacts), DIGEST)
    assert artifacts.gc(set()) == 0, "it is young again"
    os.utime(root / DIGEST, (0, 0))
    assert artifacts.gc(set()) == 1
    assert names(root) == ["README"]


def test_a_name_never_stands_for_half_an_artifact_even_when_killed(tmp_path):
    script = (
        "import hashlib, os, sys, itertools\nfrom pathlib import Path\n"
        "from hearth.store.artifacts import Artifacts\n"
        "artifacts = Artifacts(Path(sys.argv[1]))\n"
        "for n in itertools.count():\n"
        "    staged, data = artifacts.stage(), os.urandom(200_000)\n"
        "    (staged / 'data').write_bytes(data)\n"
        "    print(artifacts.install(staged, hashlib.sha256(data).hexdigest()).name, flush=True)"
    )
    promised = []
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        promised += [child.stdout.readline() for _ in range(3)]
        child.kill()
        promised += child.stdout.read().splitlines(keepends=True)
        child.wait()
        child.stdout.close()
    installed = {name for name in names(tmp_path) if not name.startswith(".new-")}
    assert installed >= {line.strip() for line in promised if line.endswith("\n")}
    for name in installed:
        assert hashlib.sha256((tmp_path / name / "data").read_bytes()).hexdigest() == name


def test_other_users_cannot_list_what_is_deployed(tmp_path):
    root = tmp_path / "artifacts"
    Artifacts(root)
    assert root.stat().st_mode & 0o777 == 0o711
