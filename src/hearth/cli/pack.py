"""A folder becomes a tar.gz: the same files give the same bytes, whoever packs them and when."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from hearth.cli.ignore import Ignore
from hearth.errors import BadInput

MAX_BYTES = 256 << 20
"""Unpacked bytes of a function; the node refuses more as well."""


def pack(folder: Path) -> bytes:
    """Return the files of `folder` as tar.gz, without what `Ignore` leaves out.

    Raises:
        BadInput: there is nothing to pack, a link or special file in it, or more than `MAX_BYTES`.
    """
    files = sorted(_files(folder, Ignore.of(folder), ""))
    if not files:
        raise BadInput(f"there is no file in {folder} to deploy")
    if sum((folder / name).stat().st_size for name in files) > MAX_BYTES:
        raise BadInput(f"{folder} holds more than {MAX_BYTES >> 20} MiB; see .hearthignore")
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in files:
            _add(archive, folder / name, name)
    return packed.getvalue()


def _files(folder: Path, ignore: Ignore, below: str) -> Iterator[str]:
    with os.scandir(folder / below) as entries:
        for entry in entries:
            name = below + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if ignore.leaves_out(name, is_folder=is_folder):
                continue
            if is_folder:
                if not (folder / name / "pyvenv.cfg").exists():
                    yield from _files(folder, ignore, name + "/")
            elif entry.is_file(follow_symlinks=False):
                yield name
            else:  # following a link could send a file that lies outside of the folder
                raise BadInput(
                    f"{name} is a link or a special file: replace it, or name it in .hearthignore"
                )


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        entry = tarfile.TarInfo(name)
        entry.size = status.st_size
        entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
        archive.addfile(entry, file)
