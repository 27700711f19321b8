"""The walls of a sandbox by name, so that a test can leave one out and see what then gets through.

This is no setting: neither configuration nor environment nor API leads here. Only code that makes a
`ProcessBackend` itself can name mechanisms, and only the escape suite does.
"""

from __future__ import annotations

MECHANISMS = {
    "root": "an own root: nothing of the host but system directories (else all of it is at /host)",
    "readonly_root": "the root is read-only",
    "readonly_code": "the function's code is read-only",
    "nosuid": "set-uid bits of the function's files have no effect",
    "nodev": "device nodes do not open",
    "masked_proc": "files of /proc that tell or change too much are covered",
    "pid": "a pid namespace for each sandbox, and, as root, one for the spawner",
    "net": "a network namespace",
    "ipc": "an IPC namespace",
    "uts": "a namespace for the host name",
    "cgroup": "a cgroup namespace",
    "user": "a user namespace",
    "uid": "user code runs under an unprivileged uid",
    "capabilities": "no capability is left, nor can one be gained",
    "no_new_privileges": "no program started gains rights",
    "dumpable": "the memory of init and host is closed to processes of the same uid",
    "seccomp": "the system call filter",
    "memory": "the memory limit",
    "pids": "the limit on processes",
    "tmp_size": "what can be written is limited in bytes and files",
    "oom_score": "a node's protection from the out-of-memory killer is not inherited",
    "core": "no core dumps",
    "descriptors": "nothing that the zygote has open is inherited",
    "passed_descriptors": "the node is sent no descriptors (Linux 6.16)",
    "environment": "nothing of the node's environment is inherited",
    "group_kill": "a control group is killed at once, whatever its processes do",
}
"""What each name stands for; see docs/security.md for what enforces it where."""
