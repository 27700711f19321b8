import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile

import pytest

from hearth.build import bundle

SOURCE = b"def handle(request):\n    return 1\n"


def tar_of(*members, raw=False, **options):
    """Each member: (name, content or None for a folder, changes to its TarInfo)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w" if raw else "w:gz", **options) as tar:
        for name, content, *changes in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            for key, value in (changes[0] if changes else {}).items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


def zip_of(*members, method=zipfile.ZIP_DEFLATED):
    """Each member: (name, content, changes to its ZipInfo)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content, *changes in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            for key, value in (changes[0] if changes else {}).items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return out.getvalue()


def link(target, kind=tarfile.SYMTYPE):
    return {"type": kind, "linkname": target, "size": 0}


def special(kind):
    return {"type": kind, "size": 0}


OK = ("handler.py", SOURCE)


# --- what is taken ------------------------------------------------------------------------------


def test_a_source_file_a_zip_and_a_tar_gz_are_the_same_artifact(shop):
    built = [shop.build(code) for code in (SOURCE, zip_of(OK), tar_of(OK))]
    assert len({one.artifact for one in built}) == 1
    assert list(shop.files(built[0])) == ["handler.py"]


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_folders_are_kept_and_order_and_dates_do_not_matter(shop, pack):
    a = pack(OK, ("pkg/__init__.py", b""), ("pkg/data.bin", b"\0\1"))
    b = pack(("pkg/data.bin", b"\0\1"), ("./pkg/__init__.py", b""), OK)
    one, two = shop.build(a), shop.build(b)
    assert one.artifact == two.artifact
    assert set(shop.files(one)) == {"handler.py", "pkg/__init__.py", "pkg/data.bin"}


def test_another_content_name_or_executable_bit_is_another_artifact(shop):
    variants = [
        tar_of(OK),
        tar_of(("handler.py", SOURCE + b"#")),
        tar_of(OK, ("x", b"")),
        tar_of(OK, ("y", b"")),
        tar_of(OK, ("y", b"", {"mode": 0o755})),
    ]
    assert len({shop.build(code).artifact for code in variants}) == 5


def test_files_belong_to_the_node_and_have_normal_modes(shop):
    code = tar_of(
        ("handler.py", SOURCE, {"mode": 0o6777, "uid": 1234}), ("data", b"1", {"mode": 0o000})
    )
    root = shop.artifacts.path(shop.build(code).artifact)
    for path in [root, *root.rglob("*")]:
        info = path.lstat()
        assert info.st_uid == os.geteuid()
        assert stat.S_IMODE(info.st_mode) & 0o7022 == 0, path
        assert stat.S_IMODE(info.st_mode) & 0o044 == 0o044, path
    assert (root / "handler.py").stat().st_mode & 0o111
    assert not (root / "data").stat().st_mode & 0o111


def test_bytecode_of_the_user_is_left_out_and_ours_is_made(shop):
    code = tar_of(OK, ("__pycache__/handler.cpython-311.pyc", b"forged"))
    root = shop.artifacts.path(shop.build(code).artifact)
    pyc = (root / "__pycache__" / "handler.cpython-311.pyc").read_bytes()
    assert b"forged" not in pyc
    flags = struct.unpack("<I", pyc[4:8])[0]
    assert flags == 0b01, "hash-based and unchecked: no start compares it with its source"


def test_a_top_level_folder_is_not_stripped_and_the_refusal_shows_it(shop):
    error = shop.refusal(zip_of(("myfunc/handler.py", SOURCE)))
    assert "at its top are myfunc/" in error.message


def test_utf8_names_are_taken_with_and_without_the_flag(shop):
    built = shop.build(zip_of(OK, ("grüße.txt", b"")))
    assert "grüße.txt" in shop.files(built)


# --- what is refused ----------------------------------------------------------------------------

BAD_NAMES = {
    "../evil.py": "leads out",
    "a/../../evil.py": "leads out",
    "a/..": "leads out",
    "..": "leads out",
    "/etc/passwd": "absolute",
    "//x": "absolute",
    "C:/x.py": "absolute",
    "c:x.py": "absolute",
    "a\\b.py": "backslash",
    "..\\evil.py": "backslash",
    "a\nb.py": "control",
    "a\x7f": "control",
    "a//b.py": "not normal",
    "a/./b.py": "not normal",
    "/".join("d" * 33): "deep",
    "n" * 256: "too long",
    "/".join(["n" * 200] * 6): "too long",
}


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leads_out_or_is_odd_is_refused(shop, tmp_path, pack, name):
    error = shop.refusal(pack(OK, (name, b"x")))
    assert BAD_NAMES[name] in error.message
    assert not (tmp_path.parent / "evil.py").exists()


def _with_nul(data):
    return data.replace(b"harmless.py", b"harm\0ess.py")


REFUSED = {
    "symlink in tar": (tar_of(OK, ("l", b"", link("/etc/passwd"))), "special"),
    "inner symlink in tar": (tar_of(OK, ("l", b"", link("handler.py"))), "special"),
    "hard link in tar": (tar_of(OK, ("l", b"", link("handler.py", tarfile.LNKTYPE))), "special"),
    "fifo in tar": (tar_of(OK, ("f", b"", special(tarfile.FIFOTYPE))), "special"),
    "char device in tar": (tar_of(OK, ("d", b"", special(tarfile.CHRTYPE))), "special"),
    "block device in tar": (tar_of(OK, ("d", b"", special(tarfile.BLKTYPE))), "special"),
    "sparse file in tar": (
        tar_of(OK, ("s", b"", special(tarfile.GNUTYPE_SPARSE))),
        "special",
    ),
    "symlink in zip": (
        zip_of(OK, ("l", b"/etc/passwd", {"external_attr": (stat.S_IFLNK | 0o777) << 16})),
        "link",
    ),
    "device in zip": (
        zip_of(OK, ("d", b"", {"external_attr": (stat.S_IFCHR | 0o666) << 16})),
        "special",
    ),
    "file twice in tar": (tar_of(OK, OK), "two entries"),
    "file twice under two spellings": (tar_of(OK, ("./handler.py", b"x=1")), "two entries"),
    "file and folder in tar": (tar_of(OK, ("handler.py/x", b"")), "both a file and a folder"),
    "folder and file in zip": (zip_of(OK, ("a/b", b""), ("a", b"")), "two entries"),
    "NUL in a zip name": (_with_nul(zip_of(OK, ("harmless.py", b""))), "control"),
    "NUL in a pax name": (
        tar_of(OK, ("x", b"", {"pax_headers": {"path": "a\0b"}}), format=tarfile.PAX_FORMAT),
        "control",
    ),
    "latin-1 name in tar": (
        tar_of(OK, ("gr\xfc.txt", b""), encoding="latin-1", format=tarfile.GNU_FORMAT),
        "UTF-8",
    ),
    "latin-1 name in zip": (zip_of(OK, ("grXX.txt", b"")).replace(b"grXX", b"gr\xfcX"), "UTF-8"),
    "encrypted zip": (None, "encrypted"),
    "bzip2 in zip": (zip_of(OK, method=zipfile.ZIP_BZIP2), "deflate"),
    "lzma in zip": (zip_of(OK, method=zipfile.ZIP_LZMA), "deflate"),
    "uncompressed tar": (tar_of(OK, raw=True), "uncompressed tar"),
    "gzip of no tar": (gzip.compress(b"hello" * 1000), "damaged"),
    "empty tar": (tar_of(), "no file"),
    "only folders": (tar_of(("a", None), ("a/b", None)), "no file"),
    "empty zip": (zip_of(), "empty"),
    "cut zip": (zip_of(OK, ("x", b"y" * 5000))[:-40], "damaged"),
    "cut tar": (tar_of(OK, ("x", os.urandom(5000)))[:-900], "damaged"),
    "wrong checksum": (
        zip_of(OK, method=zipfile.ZIP_STORED).replace(SOURCE, SOURCE[::-1]),
        "damaged",
    ),
    "program": (b"\x7fELF" + bytes(100), "compiled program"),
    "xz": (b"\xfd7zXZ\x00" + bytes(100), "xz"),
    "binary": (b"\x89PNG\r\n\xff\xfe", "neither"),
    "NUL in source": (b"x = 1\0", "NUL"),
    "nothing": (b"", "empty"),
    "blanks": (b" \n", "empty"),
}


def _encrypted():
    data = bytearray(zip_of(OK))
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + offset] |= 1
    return bytes(data)


@pytest.mark.parametrize("case", REFUSED)
def test_an_archive_that_tries_something_is_refused(shop, case):
    code, said = REFUSED[case]
    error = shop.refusal(_encrypted() if code is None else code)
    assert said in error.message
    assert error.path == "$.code"


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_bomb_is_refused_by_what_it_unpacks_to(shop, pack):
    error = shop.refusal(pack(OK, *((f"zeros{n}", bytes(1 << 20)) for n in range(40))))
    assert "unpacks to more than" in error.message
    assert error.limit.startswith("bundle_bytes=")


def test_a_zip_that_lies_about_its_size_is_refused(shop):
    data = zip_of(OK, ("zeros", bytes(8 << 20)))
    lie = data.replace(struct.pack("<I", 8 << 20), struct.pack("<I", 10))
    assert lie != data
    shop.refusal(lie)


def test_a_huge_tar_header_counts_as_content(shop):
    headers = {"comment": "x" * (30 << 20)}
    code = tar_of(OK, ("x", b"", {"pax_headers": headers}), format=tarfile.PAX_FORMAT)
    assert "unpacks to more than" in shop.refusal(code).message


def test_a_chain_of_tar_headers_does_not_exhaust_the_stack(shop):
    one = tarfile.TarInfo("g")
    one.type, one.size = tarfile.XGLTYPE, 0
    code = gzip.compress(one.tobuf() * 20_000 + bytes(1024))
    shop.refusal(code)


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_too_many_files_are_refused(shop, pack):
    error = shop.refusal(pack(OK, *((f"d/{n}", b"") for n in range(bundle.MAX_FILES))))
    assert "more than 10,000 files" in error.message


def test_many_files_within_the_limit_are_taken(shop):
    built = shop.build(tar_of(OK, *((f"d/{n}", b"") for n in range(500))))
    assert len(shop.files(built)) == 501
