"""Drops all rights, then becomes ffprobe or ffmpeg to read an untrusted file.

Run as `python -I -S sandbox.py MEMORY_BYTES CPU_SECONDS PARENT_PID PROGRAM ARGUMENT...`.

The program may read its standard input (a file, which it may reopen as /proc/self/fd/0) and the
system's libraries, and write to its standard output. It has no network, cannot start or reach other
processes, cannot write files, and dies with its parent.

Imports the standard library only, because it runs without site-packages.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
import sys

UNAVAILABLE = 126  # exit status: the sandbox could not be built, the program was not started
PROGRAM_MISSING = 127

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
SECCOMP_MODE_FILTER = 2
CAP_DAC_READ_SEARCH = 2  # root keeps this one: the recording may belong to another user
CLONE_THREAD = 0x10000
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000

# AUDIT_ARCH_*, then the numbers of the refused system calls. Source: linux/audit.h, asm/unistd.h.
X86_64, AARCH64 = 0xC000003E, 0xC00000B7
REFUSED = {
    # fmt: off
    "socket": {X86_64: 41, AARCH64: 198},
    "connect": {X86_64: 42, AARCH64: 203},
    "accept": {X86_64: 43, AARCH64: 202},
    "sendto": {X86_64: 44, AARCH64: 206},
    "recvfrom": {X86_64: 45, AARCH64: 207},
    "sendmsg": {X86_64: 46, AARCH64: 211},
    "recvmsg": {X86_64: 47, AARCH64: 212},
    "bind": {X86_64: 49, AARCH64: 200},
    "listen": {X86_64: 50, AARCH64: 201},
    "socketpair": {X86_64: 53, AARCH64: 199},
    "accept4": {X86_64: 288, AARCH64: 242},
    "recvmmsg": {X86_64: 299, AARCH64: 243},
    "sendmmsg": {X86_64: 307, AARCH64: 269},
    "io_uring_setup": {X86_64: 425, AARCH64: 425},  # its operations bypass the filter
    "io_uring_enter": {X86_64: 426, AARCH64: 426},
    "io_uring_register": {X86_64: 427, AARCH64: 427},
    "fork": {X86_64: 57},
    "vfork": {X86_64: 58},
    "kill": {X86_64: 62, AARCH64: 129},
    "ptrace": {X86_64: 101, AARCH64: 117},
    "process_vm_readv": {X86_64: 310, AARCH64: 270},
    "process_vm_writev": {X86_64: 311, AARCH64: 271},
    "pidfd_send_signal": {X86_64: 424, AARCH64: 424},
    "pidfd_open": {X86_64: 434, AARCH64: 434},
    "pidfd_getfd": {X86_64: 438, AARCH64: 438},
    "add_key": {X86_64: 248, AARCH64: 217},
    "request_key": {X86_64: 249, AARCH64: 218},
    "keyctl": {X86_64: 250, AARCH64: 219},
    "bpf": {X86_64: 321, AARCH64: 280},
    "perf_event_open": {X86_64: 298, AARCH64: 241},
    "userfaultfd": {X86_64: 323, AARCH64: 282},
    "open_by_handle_at": {X86_64: 304, AARCH64: 265},
    "chroot": {X86_64: 161, AARCH64: 51},
    "mount": {X86_64: 165, AARCH64: 40},
    "unshare": {X86_64: 272, AARCH64: 97},
    "setns": {X86_64: 308, AARCH64: 268},
    # fmt: on
}
CLONE = {X86_64: 56, AARCH64: 220}
CLONE3 = {X86_64: 435, AARCH64: 435}
X32_BIT = 0x40000000  # marks a second numbering of the same calls on x86-64

# Read by the dynamic linker and the C library; `lib` next to the program's folder is added.
LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache")
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_READ_AND_EXECUTE = 0b1101  # EXECUTE, READ_FILE, READ_DIR
LANDLOCK_EXECUTE_FILE = 0b0101
LANDLOCK_READ_FILE = 0b0100

libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Become the program, or exit with UNAVAILABLE or PROGRAM_MISSING."""
    memory_bytes, cpu_seconds, parent_pid = map(int, arguments[:3])
    program = arguments[3]
    if not os.access(program, os.X_OK):
        os._exit(PROGRAM_MISSING)
    die_with_parent(parent_pid)
    limit_resources(memory_bytes, cpu_seconds)
    drop_capabilities()
    if not prctl(PR_SET_NO_NEW_PRIVS, 1):
        os._exit(UNAVAILABLE)
    restrict_files(program)
    if not refuse_system_calls() and not leave_network():
        os._exit(UNAVAILABLE)
    os.execv(program, arguments[3:])


def prctl(option: int, value: int, pointer: object = 0) -> bool:
    """Call prctl; False if the kernel refused."""
    return bool(libc.prctl(option, ctypes.c_ulong(value), pointer, 0, 0) == 0)


def die_with_parent(parent_pid: int) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent died before the line above
        os._exit(UNAVAILABLE)


def limit_resources(memory_bytes: int, cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no writing to files; pipes are not files
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def drop_capabilities() -> None:
    """Root loses its rights at the exec; other users have none, and the kernel refuses the call."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        if capability != CAP_DAC_READ_SEARCH:
            prctl(PR_CAPBSET_DROP, capability)


def restrict_files(program: str) -> None:
    """With Landlock, allow opening only libraries, the program and standard input, for reading.

    Does nothing on a kernel without it (before 5.13, or not enabled).
    Source: https://docs.kernel.org/userspace-api/landlock.html
    """
    version = libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    n_file_rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    network = 0b11 if version >= 4 else 0  # TCP: bind, connect
    scoped = 0b11 if version >= 6 else 0  # abstract Unix sockets, signals to other processes
    attributes = struct.pack("=QQQ", (1 << n_file_rights) - 1, network, scoped)
    rules = libc.syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    beside = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(program))), "lib")
    named = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    for path in {*LIBRARIES, beside, *named}:
        if os.path.exists(path):
            rights = LANDLOCK_READ_AND_EXECUTE if os.path.isdir(path) else LANDLOCK_READ_FILE
            allow(rules, os.open(path, os.O_PATH), rights)
    allow(rules, os.open(program, os.O_PATH), LANDLOCK_EXECUTE_FILE)
    allow(rules, 0, LANDLOCK_READ_FILE)
    if libc.syscall(LANDLOCK_RESTRICT_SELF, rules, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")


def allow(rules: int, descriptor: int, rights: int) -> None:
    rule = struct.pack("=Qi", rights, descriptor)
    if libc.syscall(LANDLOCK_ADD_RULE, rules, 1, rule, 0) != 0:
        if ctypes.get_errno() != errno.EBADFD:  # raised for memfds and pipes, which need no rule
            raise OSError(ctypes.get_errno(), "landlock_add_rule")


def refuse_system_calls() -> bool:
    """Install a seccomp filter: calls in REFUSED fail with EPERM, `clone` only makes threads.

    `clone3` fails with ENOSYS, because its flags are in memory, where a filter cannot see them; the
    C library then falls back to `clone`.

    Returns:
        False if the filter could not be installed.
    """
    arch = {"x86_64": X86_64, "aarch64": AARCH64}.get(os.uname().machine)
    if arch is None:
        return False
    filter_ = seccomp_filter(arch)
    buffer = ctypes.create_string_buffer(filter_, len(filter_))
    # struct sock_fprog: a count, padding, a pointer
    program = struct.pack("HxxxxxxP", len(filter_) // 8, ctypes.addressof(buffer))
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program)


def seccomp_filter(arch: int) -> bytes:
    """The filter in classic BPF; 8 bytes an instruction: code, jumps if true and false, operand."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allowed, killed = 0x7FFF0000, 0x80000000
    eperm, enosys = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    nr_at, arch_at, argument_at = 0, 4, 16  # offsets in struct seccomp_data
    lines = [
        (load, 0, 0, arch_at),
        (equal, 1, 0, arch),
        (give, 0, 0, killed),
        (load, 0, 0, nr_at),
    ]
    if arch == X86_64:
        lines += [(at_least, 0, 1, X32_BIT), (give, 0, 0, killed)]
    for numbers in REFUSED.values():
        if arch in numbers:
            lines += [(equal, 0, 1, numbers[arch]), (give, 0, 0, eperm)]
    lines += [
        (equal, 0, 1, CLONE3[arch]),
        (give, 0, 0, enosys),
        (equal, 0, 3, CLONE[arch]),
        (load, 0, 0, argument_at),
        (any_bit, 1, 0, CLONE_THREAD),
        (give, 0, 0, eperm),
        (give, 0, 0, allowed),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def leave_network() -> bool:
    """Move to an empty network namespace, the next best option without a filter."""
    return bool(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    finally:
        os._exit(UNAVAILABLE)  # the program was not started
