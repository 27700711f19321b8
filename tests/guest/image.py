"""Builds the guest's disk: a few Debian packages, the project's virtual environment, an init.

The packages are those installed on this machine (what `dpkg` says they own), so that nothing is
downloaded except a kernel where none is installed. The image is kept under `.cache/guest`, named by
a digest of everything it is made from.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".cache" / "guest"
SITE = PROJECT / ".venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
HOME = "/opt/hearth"  # where the project lies inside the guest

PACKAGES = (
    *("bash", "dash", "coreutils", "util-linux", "mount", "grep", "sed", "findutils", "tar"),
    *("python3", "python3-minimal", "iproute2", "procps", "kmod", "strace", "libcap2-bin"),
)
NOT_IN_GUEST = (
    *("mypy", "mypyc", "pip", "setuptools", "pkg_resources"),
    *("_distutils_hack", "distutils-precedence.pth"),
)
KERNEL = "linux-image-cloud-amd64"
IMAGE_BYTES = 3 << 30  # sparse; what is not written costs nothing


class GuestError(RuntimeError):
    """The guest cannot be built or booted; the message says what to install or change."""


def output(*command: str) -> str:
    """Return what a command prints.

    Raises:
        GuestError: it is missing or it failed.
    """
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        raise GuestError(f"{' '.join(command[:3])} failed: {detail.strip()[-500:]}") from error
    return done.stdout


def kernel() -> Path:
    """Return a kernel to boot: the newest installed cloud kernel, else one unpacked into the cache.

    Unpacking instead of installing spares the host an initramfs and a boot entry.
    """
    for directory in (Path("/boot"), CACHE / "kernel" / "boot"):
        found = sorted(directory.glob("vmlinuz-*-cloud-amd64"))
        if found:
            return found[-1]
    target = CACHE / "kernel"
    target.mkdir(parents=True, exist_ok=True)
    versioned = re.search(
        r"Depends: (linux-image-\S+-cloud-amd64)", output("apt-cache", "depends", KERNEL)
    )
    if not versioned:
        raise GuestError(f"no package {KERNEL} is known here: apt-get update")
    subprocess.run(["apt-get", "download", versioned[1]], cwd=target, check=True)
    for package in target.glob("*.deb"):
        output("dpkg-deb", "-x", str(package), str(target))
        package.unlink()
    return next(iter(sorted(target.glob("boot/vmlinuz-*"))))


def closure(names: tuple[str, ...]) -> dict[str, str]:
    """Return the installed packages that the named ones need, with their versions."""
    rows = output(
        "dpkg-query",
        "-W",
        "-f=${Package}\t${Version}\t${Pre-Depends}, ${Depends}\t${Provides}\t${Status}\n",
    )
    needs: dict[str, tuple[str, str]] = {}
    provider: dict[str, str] = {}
    for row in rows.splitlines():
        package, version, depends, provides, status = row.split("\t")
        if status == "install ok installed":
            needs[package] = (version, depends)
            provider |= dict.fromkeys(re.findall(r"[a-z0-9][\w.+-]+", provides), package)
    missing = [name for name in names if name not in needs]
    if missing:
        raise GuestError(f"install first: apt-get install {' '.join(missing)}")
    chosen: dict[str, str] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in chosen:
            continue
        version, depends = needs[name]
        chosen[name] = version
        for alternatives in filter(str.strip, depends.split(",")):
            options = [re.split(r"[\s:(]", text.strip())[0] for text in alternatives.split("|")]
            found = [provider.get(o, o) if o not in needs else o for o in options]
            todo += [o for o in found if o in needs][:1]
    return dict(sorted(chosen.items()))


def digest(packages: dict[str, str], linux: Path) -> str:
    """Return what names the image: packages, kernel, wheels, and the files of this directory."""
    text = hashlib.sha256(repr((packages, linux.name)).encode())
    for dist in sorted(SITE.glob("site-packages/*.dist-info")):
        text.update(dist.name.encode())
    for source in (Path(__file__), Path(__file__).with_name("init.sh")):
        text.update(source.read_bytes())
    return text.hexdigest()[:16]


def image(linux: Path) -> Path:
    """Return the guest's root disk for the kernel `linux`, building it if no cached one matches.

    Raises:
        GuestError: something needed is not installed, and what.
    """
    if not SITE.is_dir():
        raise GuestError(f"{SITE} is missing: create the virtual environment first (make test)")
    if SITE.name != f"python{python_version()}":
        raise GuestError(
            f"the environment's wheels are for {SITE.name}, but the guest runs {python_version()}"
        )
    packages = closure(PACKAGES)
    path = CACHE / f"root-{digest(packages, linux)}.ext4"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    for old in CACHE.glob("root-*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    root = path.with_suffix(".tree")
    try:
        populate(root, packages)
        modules(root, linux)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        output("/sbin/mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", str(root), str(partial))
        partial.rename(path)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return path


def python_version() -> str:
    """Return the minor version of Debian's own Python, e.g. `3.11`."""
    command = "import sys; print('%d.%d' % sys.version_info[:2])"
    return output("/usr/bin/python3", "-I", "-S", "-c", command).strip()


def populate(root: Path, packages: dict[str, str]) -> None:
    """Lay out the guest's root file system in a directory."""
    for name in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "opt/hearth", "home/user"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("proc", "sys", "dev", "run", "tmp", "mnt", "var/tmp", "root"):
        (root / name).mkdir(parents=True)
    for source in owned(packages):
        place(source, root)
    if not (root / "usr/bin/sh").exists():
        (root / "usr/bin/sh").symlink_to("dash")
    accounts = (("root", 0, "/root"), ("user", 1000, "/home/user"), ("nobody", 65534, "/"))
    for name, number, home in accounts:
        with (root / "etc/passwd").open("a") as passwd, (root / "etc/group").open("a") as group:
            passwd.write(f"{name}:x:{number}:{number}::{home}:/bin/sh\n")
            group.write(f"{name}:x:{number}:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost guest\n")
    output("/sbin/ldconfig", "-r", str(root))
    environment(root)
    init = root / "init"
    shutil.copy(Path(__file__).with_name("init.sh"), init)
    init.chmod(0o755)


def modules(root: Path, linux: Path) -> None:
    """Copy the kernel's modules: it loads some by itself, as `tcp_diag` for whoever asks for it."""
    version = linux.name.removeprefix("vmlinuz-")
    found = [linux.parent.parent / lib / "modules" / version for lib in ("lib", "usr/lib")]
    source = next((path for path in found if path.is_dir()), None)
    if source is None:
        raise GuestError(f"the modules of {linux} are missing: {found[0]}")
    ignored = shutil.ignore_patterns("build", "source")
    shutil.copytree(source, root / "usr/lib/modules" / version, symlinks=True, ignore=ignored)
    output("/sbin/depmod", "-b", str(root), version)


def owned(packages: dict[str, str]) -> Iterator[Path]:
    """Yield the files and links that the packages own, without documentation."""
    skip = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info")
    for line in output("dpkg", "-L", *packages).splitlines():
        path = Path(line)
        wanted = line.startswith("/") and not line.startswith(skip)
        if wanted and (path.is_symlink() or path.is_file()):
            yield path


def place(source: Path, root: Path) -> None:
    """Copy one file of this machine to the same place below `root`, merged `/usr` or not."""
    directory = source.parent.resolve()
    target = root / str(directory).lstrip("/") / source.name
    if os.path.lexists(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy2(source, target, follow_symlinks=False)
    except PermissionError:
        return  # an ordinary user builds without the files that only root may read
    if not source.is_symlink():
        target.chmod(stat.S_IMODE(source.stat().st_mode))


def environment(root: Path) -> None:
    """Copy the virtual environment, bound to the guest's interpreter and project directory."""
    home = root / HOME.lstrip("/")
    venv = home / ".venv"
    packages = venv / "lib" / SITE.name / "site-packages"
    ignored = shutil.ignore_patterns("__pycache__", *NOT_IN_GUEST)
    shutil.copytree(SITE / "site-packages", packages, ignore=ignored, symlinks=True)
    for link in packages.glob("_editable_impl_*.pth"):
        link.write_text(f"{HOME}/src\n")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (venv / "bin").mkdir()
    for name in ("python", "python3"):
        (venv / "bin" / name).symlink_to("/usr/bin/python3")
    for name in ("hearth", "pytest"):
        source = PROJECT / ".venv" / "bin" / name
        if source.exists():
            _, _, body = source.read_text().partition("\n")
            (venv / "bin" / name).write_text(f"#!{HOME}/.venv/bin/python\n{body}")
            (venv / "bin" / name).chmod(0o755)
    # Byte code made here saves the emulated processor minutes of compiling.
    for tree in (packages, root / "usr/lib" / SITE.name):
        compiler = ["/usr/bin/python3", "-I", "-m", "compileall", "-q", "-s", str(root)]
        compiler += ["--invalidation-mode", "unchecked-hash", str(tree)]
        subprocess.run(compiler, check=False, capture_output=True)  # some samples do not compile
