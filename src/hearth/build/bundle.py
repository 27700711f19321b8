"""Safe unpacking: a source file, a zip or a tar.gz becomes a plain tree of files.

Runs in the build process, never in the node. The rules are the same for both archive formats, and
nothing that an archive says about itself is believed: sizes are counted while bytes are written,
names are checked before anything is made, and only ordinary files and folders exist afterwards.

A single top-level folder is kept as it is: what is `handler.py` in the archive is `handler.py` in
the function. `__pycache__` folders are left out; bytecode is made at deploy.
"""

from __future__ import annotations

import gzip
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from hearth.errors import DeployFailed

MAX_FILES = 10_000
"""Files and folders in one bundle."""
MAX_BYTES = 256 << 20
"""Unpacked bytes in one bundle."""
MAX_RATIO = 200
"""Unpacked bytes for each packed byte, once `RATIO_FREE` bytes are unpacked."""
RATIO_FREE = 4 << 20
MAX_DEPTH = 32
MAX_PATH = 1024
MAX_NAME = 255
CHUNK = 1 << 18

_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_OTHER_MAGIC = (
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z file"),
    (b"Rar!", "a rar file"),
    (b"\x7fELF", "a compiled program"),
)


class Entry(NamedTuple):
    """One thing in an archive, whatever the format."""

    name: str
    is_dir: bool
    executable: bool
    content: IO[bytes] | None


class Budget:
    """Counts what is unpacked and refuses what is too much."""

    def __init__(self, packed_bytes: int) -> None:
        """Allow as much as an archive of `packed_bytes` may honestly hold."""
        self._limit = min(MAX_BYTES, max(RATIO_FREE, packed_bytes * MAX_RATIO))
        self._bytes = 0
        self._files = 0

    def add_bytes(self, count: int) -> None:
        """Count bytes.

        Raises:
            DeployFailed: more than the bundle may unpack to.
        """
        self._bytes += count
        if self._bytes > self._limit:
            raise DeployFailed(
                f"the archive unpacks to more than {self._limit >> 20} MiB "
                f"(at most {MAX_BYTES >> 20} MiB, and {MAX_RATIO} times its own size)",
                path="$.code",
                limit=f"bundle_bytes={self._limit}",
            )

    def add_file(self) -> None:
        """Count a file or folder.

        Raises:
            DeployFailed: there are too many.
        """
        self._files += 1
        if self._files > MAX_FILES:
            raise DeployFailed(
                f"the archive holds more than {MAX_FILES:,} files and folders",
                path="$.code",
                limit=f"bundle_files={MAX_FILES}",
            )


def unpack(archive: IO[bytes], *, source_name: str) -> None:
    """Write the files of `archive` (seekable) into the current directory, which must be empty.

    Args:
        archive: what the user sent, decoded.
        source_name: the file name to use when it is a lone source file.

    Raises:
        DeployFailed: it is none of the formats, or tries something it may not.
    """
    packed = archive.seek(0, os.SEEK_END)
    archive.seek(0)
    magic = archive.read(512)
    archive.seek(0)
    budget = Budget(packed)
    if magic.startswith(b"PK\x03\x04"):
        _write_tree(_zip_entries(archive), budget)
    elif magic.startswith(b"\x1f\x8b"):
        _write_tree(_tar_entries(archive), budget)
    else:
        _write_source(archive.read(MAX_BYTES), magic, source_name)


def _write_source(source: bytes, magic: bytes, name: str) -> None:
    kind = next((kind for start, kind in _OTHER_MAGIC if magic.startswith(start)), None)
    if magic[257:262] == b"ustar":
        kind = "an uncompressed tar"
    if magic.startswith(b"PK"):
        kind = "an empty or split zip"
    if kind:
        raise _refused(f"it is {kind}; send a source file, a zip or a tar.gz")
    if not source.strip():
        raise _refused("it is empty")
    try:
        text = source.decode()
    except UnicodeDecodeError as error:
        raise _refused("it is neither a zip, nor a tar.gz, nor UTF-8 source text") from error
    if "\0" in text:
        raise _refused("it is neither a zip nor a tar.gz, and holds a NUL byte")
    if folder := os.path.dirname(name):
        os.makedirs(folder)
    with open(name, "xb") as file:
        file.write(source)


def _write_tree(entries: Iterator[Entry], budget: Budget) -> None:
    seen: dict[str, bool] = {}
    try:
        for entry in entries:
            budget.add_file()
            _write_entry(entry, seen, budget)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _refused(f"the archive is damaged: {error}") from error
    except (NotImplementedError, ValueError, OverflowError) as error:
        raise _refused(f"the archive is not understood: {error}") from error
    if not any(not is_dir for is_dir in seen.values()):
        raise _refused("the archive holds no file")


def _write_entry(entry: Entry, seen: dict[str, bool], budget: Budget) -> None:
    parts = check_name(entry.name)
    if not parts or "__pycache__" in parts:
        return
    for depth in range(1, len(parts)):
        _make_folder("/".join(parts[:depth]), seen, budget, explicit=False)
    path = "/".join(parts)
    if entry.is_dir:
        _make_folder(path, seen, budget, explicit=True)
        return
    if path in seen:
        raise _refused(f"two entries are called {path!r}")
    seen[path] = False
    if entry.content is None:
        raise _refused(f"{path!r} has no content")
    mode = 0o755 if entry.executable else 0o644
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        while chunk := entry.content.read(CHUNK):
            budget.add_bytes(len(chunk))
            file.write(chunk)


def _make_folder(path: str, seen: dict[str, bool], budget: Budget, *, explicit: bool) -> None:
    is_dir = seen.get(path)
    if is_dir is False:
        raise _refused(f"{path!r} is both a file and a folder")
    if is_dir is None:
        if not explicit:
            budget.add_file()
        os.mkdir(path, 0o755)
        seen[path] = True


def check_name(name: str) -> tuple[str, ...]:
    """Return the parts of an archive member's name; empty for the root itself.

    Raises:
        DeployFailed: the name could lead out of the bundle or is not portable.
    """
    shown = ascii(name[:120])
    if _CONTROL.search(name):
        raise _refused(f"the name {shown} holds a control character, a backslash or is not UTF-8")
    if name.startswith("/") or _DRIVE.match(name):
        raise _refused(f"the name {shown} is absolute")
    parts = tuple(name.removesuffix("/").split("/"))
    if parts[0] == ".":
        parts = parts[1:]
    if ".." in parts:
        raise _refused(f"the name {shown} leads out of the bundle")
    if any(part in ("", ".") for part in parts):
        raise _refused(f"the name {shown} is not normal: it has an empty or '.' part")
    if len(parts) > MAX_DEPTH:
        raise _refused(f"the name {shown} is more than {MAX_DEPTH} folders deep")
    if len(name.encode()) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in parts):
        raise _refused(f"the name {shown} is too long")
    return parts


# --- zip ---------------------------------------------------------------------------------------


def _zip_entries(archive: IO[bytes]) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        if len(members) > MAX_FILES:  # before 10,001 names are looked at
            raise _refused(f"the archive holds more than {MAX_FILES:,} files and folders")
        for info in members:
            yield from _zip_entry(opened, info)


def _zip_entry(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[Entry]:
    name = _zip_name(info)
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(f"{name!r} is a link or a special file")
    if info.flag_bits & 0x1:
        raise _refused(f"{name!r} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(f"{name!r} uses a compression method other than deflate")
    if name.endswith("/") or stat.S_ISDIR(mode):
        yield Entry(name, is_dir=True, executable=False, content=None)
        return
    with opened.open(info) as content:
        yield Entry(name, is_dir=False, executable=bool(mode & 0o111), content=content)


def _zip_name(info: zipfile.ZipInfo) -> str:
    # `filename` is cut at a NUL by zipfile; the original is what must be judged
    name = info.orig_filename
    if info.flag_bits & 0x800:
        return name
    try:  # without the UTF-8 flag zipfile decodes as cp437; most tools wrote UTF-8 all the same
        return name.encode("cp437").decode()
    except UnicodeError as error:
        raise _refused(f"the name {name[:120]!a} is not UTF-8") from error


# --- tar.gz ------------------------------------------------------------------------------------


class _Counted:
    """A gzip stream whose every inflated byte is counted, tar headers and padding included."""

    def __init__(self, archive: IO[bytes]) -> None:
        self._budget = Budget(archive.seek(0, os.SEEK_END))
        archive.seek(0)
        self._inflated = gzip.GzipFile(fileobj=archive)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; empty at the end."""
        data = self._inflated.read(size)
        self._budget.add_bytes(len(data))
        return data


def _tar_entries(archive: IO[bytes]) -> Iterator[Entry]:
    stream: Any = _Counted(archive)  # tarfile's stream mode needs `read` and nothing else
    with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            yield _tar_entry(tar, member)


def _tar_entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    if member.isdir():
        return Entry(member.name, is_dir=True, executable=False, content=None)
    if not member.isreg() or member.issparse():
        raise _refused(f"{member.name!a} is a link, a device, sparse or otherwise special")
    executable = bool(member.mode & 0o111)
    return Entry(member.name, is_dir=False, executable=executable, content=tar.extractfile(member))


def _refused(why: str) -> DeployFailed:
    return DeployFailed(f"code is refused: {why}", path="$.code")
