"""The machine: mounts, its clock, its modules, and the wide parts of the kernel's surface.

Everything that could do harm is called with arguments that the kernel refuses, but only once it has
let us in (see `kernel.reached`).
"""

import ctypes
import fcntl
import mmap
import os
import struct

from attacks.attempt import BY_CAPABILITY, MACHINE_ROOT, attempt
from attacks.kernel import call, libc, reached

_OWN_ROOT = ("seccomp", "capabilities", "uid")
_OWN_ROOT_AS_USER = ("seccomp", "capabilities")
_BY_ADMIN = "it also takes CAP_SYS_ADMIN over the sandbox"
_TIOCSTI = 0x5412


@attempt(*_OWN_ROOT, why=_BY_ADMIN, user_off=_OWN_ROOT_AS_USER)
def mount_a_file_system(world):
    return call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None) == 0 and "mounted"


@attempt(*_OWN_ROOT, why=_BY_ADMIN, user_off=_OWN_ROOT_AS_USER)
def mount_by_the_new_calls(world):
    return call("fsopen", b"tmpfs", 0)


@attempt(*_OWN_ROOT, why=_BY_ADMIN, user_off=_OWN_ROOT_AS_USER)
def copy_a_mount(world):
    return call("open_tree", -100, b"/tmp", 1)


@attempt(*_OWN_ROOT, why=_BY_ADMIN, user_off=_OWN_ROOT_AS_USER)
def unmount_what_covers_something(world):
    return call("umount2", b"/tmp", 2) == 0 and "unmounted"


@attempt(*_OWN_ROOT, why="it also takes CAP_SYS_CHROOT", user_off=_OWN_ROOT_AS_USER)
def change_the_root(world):
    return call("chroot", b"/tmp") == 0 and "changed"


@attempt(
    *MACHINE_ROOT,
    "uts",
    why="besides, the name is that of the sandbox's own namespace",
    root_only=True,
)
def change_the_name_of_the_host(world):
    name = world["host"].encode()
    call("sethostname", name, len(name))
    return os.uname().nodename == world["host"]


@attempt("seccomp")
def turn_off_address_randomisation(world):
    call("personality", 0x0040000)
    return "turned off"


@attempt("seccomp")
def type_into_a_terminal(world):
    try:
        fcntl.ioctl(0, _TIOCSTI, b"x")
    except OSError as error:
        return error.errno == 25 and "the kernel looked for a terminal"  # ENOTTY


@attempt("seccomp")
def hide_its_terminal_request_in_high_bits(world):
    libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p]
    libc.ioctl(0, _TIOCSTI | 1 << 32, b"x")
    return ctypes.get_errno() == 25 and "the kernel looked for a terminal"


@attempt("seccomp", machine="x86_64")
def call_the_kernel_as_a_32_bit_program(world):
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20 (getpid of i386); int 0x80; ret
    area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    area.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid()


@attempt("seccomp")
def use_the_keyrings_of_the_kernel(world):
    return call("add_key", b"user", b"hearth", b"x", 1, -1)


@attempt("seccomp")
def read_a_keyring(world):
    return call("keyctl", 0, -4, 0)


@attempt("seccomp")
def use_io_uring(world):
    return reached("io_uring_setup", 0, None)


@attempt("seccomp")
def handle_page_faults(world):
    return call("userfaultfd", 1 | os.O_CLOEXEC)  # UFFD_USER_MODE_ONLY


@attempt(*MACHINE_ROOT, why=BY_CAPABILITY, root_only=True)
def load_a_program_into_the_kernel(world):
    map_of_one = struct.pack("=IIIII", 2, 4, 4, 1, 0)  # an array
    return call("bpf", 0, map_of_one, len(map_of_one))


@attempt(*MACHINE_ROOT, why=BY_CAPABILITY, root_only=True)
def watch_the_machine_by_its_counters(world):
    clock = struct.pack("=IIQ", 1, 112, 0) + bytes(96)  # software, CPU clock
    return call("perf_event_open", clock, -1, 0, -1, 0)


@attempt(*MACHINE_ROOT, why=BY_CAPABILITY, root_only=True)
def open_files_by_handle(world):
    return reached("open_by_handle_at", -100, struct.pack("=Ii", 0, 1), os.O_RDONLY)


@attempt(*MACHINE_ROOT, why=BY_CAPABILITY, root_only=True)
def reboot(world):
    return reached("reboot", 0xDEAD, 0, 0, None)


@attempt(*MACHINE_ROOT, why=BY_CAPABILITY, root_only=True)
def add_swap(world):
    return reached("swapon", b"/nonexistent", 0)


@attempt("seccomp")
def set_the_clock(world):
    return reached("clock_settime", 0, struct.pack("=qq", 0, 10**10))


@attempt(*MACHINE_ROOT, why=BY_CAPABILITY, root_only=True)
def load_a_module(world):
    return reached("init_module", None, 0, b"")


@attempt(*MACHINE_ROOT, why=BY_CAPABILITY, root_only=True)
def unload_a_module(world):
    return reached("delete_module", b"hearth_no_such_module", 0)


@attempt(*MACHINE_ROOT, why=BY_CAPABILITY, root_only=True)
def boot_another_kernel(world):
    return reached("kexec_load", 0, 10**6, None, 0)


@attempt(*MACHINE_ROOT, why=BY_CAPABILITY, root_only=True)
def write_accounts_of_processes(world):
    return reached("acct", b"/nonexistent")


@attempt(*MACHINE_ROOT, why=BY_CAPABILITY, root_only=True)
def read_the_kernel_log(world):
    return call("syslog", 10, None, 0)


@attempt(*MACHINE_ROOT, why=BY_CAPABILITY, root_only=True, machine="x86_64")
def reach_the_ports_of_the_machine(world):
    return reached("iopl", 4)
