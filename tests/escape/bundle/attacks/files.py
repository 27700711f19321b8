"""Files: those of the host, those of others, and those that must not change."""

import os
import resource
import shutil
import subprocess

from attacks.attempt import BY_CAPABILITY, BY_OWNER, attempt, has_file, root_has_capability

_PREFIXES = ("", "/host", "/proc/1/root", "/proc/self/cwd/../..", "/app/function/../../..")


def _read(path):
    for prefix in _PREFIXES:
        try:
            with open(prefix + path, encoding="utf-8") as file:
                return file.read()
        except OSError:
            continue
    return None


def _write_same(path):
    """Write what is there already: proof enough, and harmless."""
    with open(path, "r+", encoding="utf-8") as file:
        text = file.read()
        file.seek(0)
        file.write(text)
    return f"wrote {path}"


@attempt("root")
def read_a_file_of_the_host(world):
    return world["token"] in (_read(f"{world['directory']}/secret") or "")


@attempt("root")
def list_directories_of_the_host(world):
    for prefix in _PREFIXES:
        try:
            return os.listdir(prefix + world["directory"])
        except OSError:
            continue
    return None


@attempt("root")
def read_the_code_of_another_function(world):
    return _read(f"{world['directory']}/other-function/handler.py")


@attempt("readonly_code")
def write_its_own_code(world):
    with open("/app/function/handler.py", "a", encoding="utf-8") as file:
        return file.write("# changed")


@attempt("readonly_code")
def add_a_file_to_its_own_code(world):
    with open("/app/function/sitecustomize.py", "w", encoding="utf-8") as file:
        return file.write("# added")


@attempt(
    "readonly_root",
    "uid",
    "user",
    why=BY_OWNER,
    user_off=("readonly_root",),
)
def write_anywhere_in_the_root(world):
    own = ("/tmp", "/dev/shm", "/proc", "/host")
    for directory, below, _ in os.walk("/"):
        if directory.count("/") > 3 or directory.startswith(own):
            below.clear()
            continue
        try:
            with open(f"{directory}/written", "w", encoding="utf-8") as file:
                file.write("x")
            return directory
        except OSError:
            continue
    return None


@attempt(
    "nodev",
    "capabilities",
    "uid",
    "user",
    why="mknod of a device takes CAP_MKNOD of the machine's own root",
    root_only=True,
)
def make_and_open_a_device(world):
    os.mknod("/tmp/zero", 0o666 | 0o020000, os.makedev(1, 5))
    with open("/tmp/zero", "rb") as device:
        return device.read(4) == bytes(4)


@attempt(
    "nosuid",
    "no_new_privileges",
    "user",
    "seccomp",
    why="each of three walls alone stops it; and without no_new_privileges an unprivileged process "
    "cannot install the filter",
    root_only=True,
)
def gain_rights_by_a_set_uid_program(world):
    process = subprocess.Popen(
        ["/app/function/set-uid-cat"], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        process.stdin.write(b"x")
        process.stdout.read(1)  # now it surely is that program
        with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
            effective = status.read().split("Uid:\t")[1].split("\t")[1]
        return effective != str(os.geteuid()) and f"effective uid {effective}"
    finally:
        process.kill()
        process.wait()


@attempt("masked_proc", "uid", "user", why=BY_OWNER, root_only=True)
def write_settings_of_the_kernel(world):
    return _write_same("/proc/sys/kernel/panic")


@attempt(
    "masked_proc",
    "uid",
    "user",
    why=BY_OWNER,
    root_only=True,
    needs=has_file("/proc/sysrq-trigger"),
)
def open_the_sysrq_trigger(world):
    return os.open("/proc/sysrq-trigger", os.O_WRONLY)


@attempt(
    "masked_proc",
    "uid",
    "user",
    "capabilities",
    why=BY_CAPABILITY,
    root_only=True,
    needs=has_file("/proc/kcore"),
)
def read_the_memory_of_the_machine(world):
    with open("/proc/kcore", "rb") as file:
        return file.read(4) == b"\x7fELF"


@attempt("masked_proc", "uid", "user", "capabilities", "seccomp", why=BY_CAPABILITY, root_only=True)
def open_the_kernel_log(world):
    descriptor = os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    # The mask is a null device, which opens but tells nothing.
    return os.fstat(descriptor).st_rdev == 0


@attempt(
    "root",
    "cgroup",
    "uid",
    "user",
    why=BY_OWNER + ", and version 2 closes the group that a cgroup namespace begins with",
    root_only=True,
)
def widen_its_own_limits(world):
    return any(_write_same(f"/host{path}") for path in world["limits"])


@attempt("masked_proc")
def see_more_of_proc_than_is_needed(world):
    return os.path.getsize("/proc/keys") >= 0 and not os.stat("/proc/keys").st_rdev


@attempt("core")
def dump_core(world):
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    except ValueError:  # what Python makes of EPERM
        return None
    return resource.getrlimit(resource.RLIMIT_CORE)


@attempt(
    "capabilities",
    "uid",
    "user",
    why=BY_CAPABILITY,
    root_only=True,
    needs=root_has_capability(24),  # CAP_SYS_RESOURCE
)
def raise_its_own_limits(world):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
    except ValueError:
        return None
    return "more files than allowed"


@attempt("descriptors")
def use_a_descriptor_left_open(world):
    # 0, 1, 2 and the channel are its own; the last one lists the directory.
    return sorted(map(int, os.listdir("/proc/self/fd")))[4:-1]


@attempt("environment")
def read_the_environment_of_the_node(world):
    with open("/proc/self/environ", encoding="utf-8") as file:
        return world["token"] in file.read()


def _fill(path, size):
    with open(path, "wb", buffering=0) as file:
        written = 0
        while written < size:
            written += file.write(bytes(1 << 20))
    return written


@attempt("tmp_size", limits={"tmp_bytes": 4 << 20})
def fill_tmp(world):
    return _fill("/tmp/fill", 8 << 20)


@attempt("tmp_size")
def fill_the_shared_memory_directory(world):
    return _fill("/dev/shm/fill", 24 << 20)


@attempt("tmp_size", limits={"tmp_bytes": 4 << 20})
def use_up_the_files_of_tmp(world):
    for number in range(3000):
        with open(f"/tmp/{number}", "w", encoding="utf-8"):
            pass
    return number


@attempt("tmp_size", limits={"tmp_bytes": 4 << 20})
def fill_tmp_by_links_and_directories(world):
    os.mkdir("/tmp/a")
    for number in range(3000):
        os.symlink("x" * 200, f"/tmp/a/{number}")
    shutil.rmtree("/tmp/a")
    return number
