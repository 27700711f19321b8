"""The only code that talks to the kernel: namespaces, mounts, cgroups, seccomp, descriptors."""
