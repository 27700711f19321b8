"""Unpacked bundles as read-only directories, named by the SHA-256 of their content.

Everything here blocks on the disk: call it from a worker thread. What was installed is
fsynced before its name exists, so a name never stands for half a file after a power cut.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from hearth.errors import NotFound, StoreError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_STAGING = ".new-"


class Artifacts:
    """Unpacked bundles, one read-only directory each."""

    def __init__(self, root: Path) -> None:
        """Keep directories below `root`, which is made if need be."""
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        # Sandboxes have other uids and must pass through; nobody else can list what is deployed.
        root.chmod(0o711)

    def path(self, digest: str) -> Path:
        """Return where an artifact is or would be.

        Raises:
            NotFound: `digest` is not a SHA-256 in hex.
        """
        return self._root / _checked(digest)

    def stage(self) -> Path:
        """Return a new empty directory to unpack into; give it to `install` or remove it."""
        return Path(tempfile.mkdtemp(dir=self._root, prefix=_STAGING))

    def install(self, staged: Path, digest: str) -> Path:
        """Make a prepared directory the artifact `digest`, in one step, read-only and durable.

        If the artifact exists already, `staged` is removed and the existing one stays.

        Raises:
            StoreError: the directory holds something that is neither file nor directory, or the
                disk failed; `staged` is removed.
        """
        target = self.path(digest)
        try:
            if target.exists():
                _remove(staged)
                os.utime(target)
                return target
            _seal(staged)
            os.rename(staged, target)
            _sync(self._root)
        except OSError as error:
            _remove(staged)
            if target.exists():  # another deploy of the same bundle was faster
                return target
            raise StoreError(f"{target} cannot be installed: {error.strerror}") from error
        except StoreError:
            _remove(staged)
            raise
        return target

    def gc(self, keep: Collection[str], *, older_than_s: float = 3600) -> int:
        """Remove artifacts not in `keep`, and leftovers of a crash; return how many went.

        Younger ones stay: a deploy under way refers to its artifact only at its end.
        """
        removed = 0
        for path in _expired(self._root, keep, older_than_s):
            _remove(path)
            removed += 1
        return removed


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise NotFound(f"{digest!r} is not a SHA-256 digest")
    return digest


def _expired(root: Path, keep: Collection[str], older_than_s: float) -> Iterator[Path]:
    horizon = time.time() - older_than_s
    for entry in list(os.scandir(root)):
        ours = entry.name.startswith(_STAGING) or _DIGEST.fullmatch(entry.name)
        if ours and entry.name not in keep:
            try:
                if entry.stat(follow_symlinks=False).st_mtime <= horizon:
                    yield Path(entry.path)
            except FileNotFoundError:
                continue  # somebody else removed it


def _seal(root: Path) -> None:
    """Make a tree read-only and durable, leaves first."""
    for directory, subdirectories, files in os.walk(root, topdown=False):
        links = [name for name in subdirectories if os.path.islink(os.path.join(directory, name))]
        for name in (*files, *links):
            _seal_file(os.path.join(directory, name))
        os.chmod(directory, 0o555)  # noqa: S103 - read by the functions' own uids, written by none
        _sync(Path(directory))


def _seal_file(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"{path} is not a plain file: {error.strerror}") from error
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise StoreError(f"{path} is not a plain file")
        os.fchmod(fd, 0o555 if mode & 0o100 else 0o444)
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(root: Path) -> None:
    """Remove a tree even if its directories are read-only and we are not root."""
    for directory, _subdirectories, _files in os.walk(root):
        os.chmod(directory, 0o700)
    shutil.rmtree(root, ignore_errors=True)
