"""Other processes: seeing, signalling, reading and tracing them."""

import ctypes
import os
import signal
import time

from attacks.attempt import attempt
from attacks.kernel import call, libc

_PTRACE_TRACEME = 0
_PR_SET_DUMPABLE = 4
_BY_IDS = "another uid cannot either, and the kernel closes a process that has changed its ids"
_CLONE_NEW = {"user": 0x10000000, "net": 0x40000000, "pid": 0x20000000, "mount": 0x20000}


def _others():
    own = {1, os.getpid(), os.getppid()}
    return {int(name) for name in os.listdir("/proc") if name.isdigit()} - own


@attempt("pid")
def see_other_processes(world):
    return _others()


@attempt("pid", root_only=True)
def find_the_secret_of_a_process_of_the_host(world):
    for pid in _others():
        try:
            with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                if world["token"] in file.read():
                    return pid
        except OSError:
            continue
    return None


@attempt(
    "pid",
    "uid",
    "user",
    why="a process of another uid cannot be signalled",
    root_only=True,
)
def signal_a_process_of_the_host(world):
    os.kill(world["pid"], 0)
    return world["pid"]


@attempt(
    "uid",
    weaker="init and function have the only uid there is; the kernel still shields init from "
    "signals that would end or stop it",
)
def signal_init(world):
    os.kill(1, 0)
    return "init can be signalled"


@attempt(
    "pid",
    "uid",
    "user",
    why="init is of another uid too",
    root_only=True,
)
def end_or_stop_init(world):
    parent = os.getppid()
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(parent, number)
        except PermissionError:
            continue
    until = time.monotonic() + 0.2
    while time.monotonic() < until:  # the kernel may take a moment
        if os.getppid() != parent:
            return "init is dead, and we are not"
        time.sleep(0.01)
    return None


@attempt("uid", "user", "dumpable", why=_BY_IDS, user_off=("dumpable",))
def read_the_environment_of_init(world):
    with open("/proc/1/environ", "rb") as file:  # it may be empty, but opening it is refused
        return file.name


@attempt("uid", "user", "dumpable", why=_BY_IDS, user_off=("dumpable",))
def walk_through_the_root_of_init(world):
    return os.listdir("/proc/1/root/")


@attempt("uid", "user", "dumpable", why=_BY_IDS, user_off=("dumpable",))
def open_the_memory_of_init(world):
    return os.open("/proc/1/mem", os.O_RDWR)


@attempt("seccomp")
def trace_its_own_child(world):
    return _in_child(lambda: libc.ptrace(_PTRACE_TRACEME, 0, 0, 0) == 0)


@attempt("seccomp")
def copy_memory_between_processes(world):
    source, target = ctypes.create_string_buffer(b"secret"), ctypes.create_string_buffer(6)
    vectors = [(ctypes.c_void_p * 2)(ctypes.addressof(buffer), 6) for buffer in (target, source)]
    call("process_vm_readv", os.getpid(), vectors[0], 1, vectors[1], 1, 0)
    return target.raw


@attempt("seccomp")
def take_a_descriptor_out_of_a_process(world):
    return call("pidfd_getfd", os.pidfd_open(os.getpid()), 1, 0)


@attempt("seccomp")
def make_a_namespace_by_unshare(world):
    return _in_child(lambda: libc.unshare(_CLONE_NEW["user"]) == 0)


@attempt("seccomp")
def make_a_namespace_by_clone(world):
    pid = call("clone", _CLONE_NEW["user"] | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


@attempt("seccomp")
def make_a_namespace_by_clone3(world):
    arguments = (ctypes.c_uint64 * 8)(_CLONE_NEW["user"], 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    pid = call("clone3", arguments, ctypes.sizeof(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


@attempt(
    "seccomp",
    "capabilities",
    "uid",
    why="entering a namespace takes CAP_SYS_ADMIN",
    user_off=("seccomp", "capabilities"),
)
def enter_a_namespace(world):
    descriptor = os.open("/proc/self/ns/uts", os.O_RDONLY)
    return call("setns", descriptor, 0) == 0 and "entered"


def _in_child(act):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if act() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@attempt("pids", limits={"pids": 16})
def bomb_with_forks(world):
    made = 0
    try:
        while made < 64:
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            made += 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
    return made


@attempt("pids", limits={"pids": 16})
def bomb_with_threads(world):
    import threading

    threading.stack_size(64 << 10)
    release = threading.Event()
    threads = [threading.Thread(target=release.wait, daemon=True) for _ in range(64)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:  # what Python makes of EAGAIN
        raise OSError(str(error)) from None
    finally:
        release.set()
    return len(threads)
