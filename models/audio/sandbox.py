"""Drops all rights, then becomes ffprobe or ffmpeg to read an untrusted file.

Run as
`python -I -S sandbox.py MEMORY_BYTES CPU_SECONDS PARENT_PID ALLOW_WEAK PROGRAM ARGUMENT...`.

The program may read its standard input (a file, which it may reopen as /proc/self/fd/0) and the
system's libraries, and write to its standard output. It has no network, cannot start or reach other
processes, cannot change files, and dies with its parent.

Two layers do this. A seccomp filter refuses system calls. Landlock, or a mount namespace on kernels
without it, hides files. Without a layer that hides files, the program is not started unless
ALLOW_WEAK is 1: it could then read what its user can read, but change nothing.

`python -I -S sandbox.py walls` prints which layers this kernel supports, as JSON.

Imports the standard library only, because it runs without site-packages.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys

FILES_EXPOSED = 125  # exit status: nothing would hide files from the program; it was not started
UNAVAILABLE = 126  # exit status: the sandbox could not be built, the program was not started
PROGRAM_MISSING = 127

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
PR_SCHED_CORE, PR_SET_PTRACER = 62, 0x59616D61
SECCOMP_MODE_FILTER = 2
CAP_DAC_READ_SEARCH = 2  # root keeps this one: the recording may belong to another user
CLONE_THREAD = 0x10000
CLONE_NEWNS, CLONE_NEWIPC = 0x20000, 0x8000000
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 2

X86_64, AARCH64 = 0xC000003E, 0xC00000B7  # AUDIT_ARCH_*; source: linux/audit.h
ARCHITECTURES = (X86_64, AARCH64)

# Numbers of the refused system calls, on x86-64 and arm64. Source: asm/unistd.h.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # fmt: off
    # sockets
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "shutdown": (48, 210),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "setsockopt": (54, 208),
    "getsockopt": (55, 209),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "sendmmsg": (307, 269),
    "recvmmsg": (299, 243),
    # other processes: started, signalled, traced, read, rescheduled
    "fork": (57, None),
    "vfork": (58, None),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "get_robust_list": (274, 100),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    # what processes share: System V and POSIX queues, semaphores and memory, locks
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
    "flock": (73, 32),
    # files: made, removed, resized
    "creat": (85, None),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rmdir": (84, None),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "copy_file_range": (326, 285),
    # files: mode, owner, times, attributes
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    # files: opened by handle, watched; devices
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "inotify_rm_watch": (255, 28),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "ioctl": (16, 29),
    # operations that bypass the filter
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "io_cancel": (210, 3),
    "io_getevents": (208, 4),
    "io_pgetevents": (333, 292),
    "io_destroy": (207, 1),
    # identity and namespaces
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "setgroups": (116, 159),
    "capset": (126, 91),
    "personality": (135, 92),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "lsm_set_self_attr": (460, 460),
    # mounts
    "mount": (165, 40),
    "umount2": (166, 39),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "statmount": (457, 457),
    "listmount": (458, 458),
    # the kernel: keys, programs, tracing, modules, clocks, accounting
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "lookup_dcookie": (212, 18),
    "vhangup": (153, 58),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    # fmt: on
}
NEWEST_REVIEWED = 469  # newer calls, which REFUSED does not know yet, look as if they did not exist

# Calls that are refused for some values of an argument.
OPEN, OPENAT, OPENAT2 = (2, None), (257, 56), (437, 437)
FCNTL, PRCTL, PRLIMIT, TGKILL = (72, 25), (157, 167), (302, 261), (234, 131)
CLONE, CLONE3 = (56, 220), (435, 435)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_SETPIPE_SZ, F_GETPIPE_SZ: neither
# locks, which other processes would wait for, nor F_SETOWN, which has the kernel send signals
HARMLESS_FCNTL = (0, 1, 2, 3, 4, 1030, 1031, 1032)
X32_BIT = 0x40000000  # marks a second numbering of the same calls on x86-64

# Read by the dynamic linker and the C library; `lib` next to the program's folder is added.
LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache")
ALTERNATIVES = "/etc/alternatives"  # Debian's links to libraries such as libblas
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_READ_AND_EXECUTE = 0b1101  # EXECUTE, READ_FILE, READ_DIR
LANDLOCK_EXECUTE_FILE = 0b0101
LANDLOCK_READ_FILE = 0b0100

libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Become the program, or exit with UNAVAILABLE or PROGRAM_MISSING."""
    memory_bytes, cpu_seconds, parent_pid, allow_weak = map(int, arguments[:4])
    program = arguments[4]
    if not os.access(program, os.X_OK):
        os._exit(PROGRAM_MISSING)
    die_with_parent(parent_pid)
    limit_resources(memory_bytes, cpu_seconds)
    drop_capabilities()
    if not prctl(PR_SET_NO_NEW_PRIVS, 1):
        os._exit(UNAVAILABLE)
    has_landlock = restrict_files(program)
    has_namespaces = not has_landlock and enter_namespaces(program)
    if not refuse_system_calls() and not has_namespaces and not leave_network():
        os._exit(UNAVAILABLE)
    if not has_landlock and not has_namespaces and not allow_weak:
        os._exit(FILES_EXPOSED)
    os.execv(program, arguments[4:])


def write_walls() -> None:
    """Write as JSON `seccomp` and `namespaces` (bool) and `landlock` (version of its ABI, or 0)."""
    child = os.fork()
    if child == 0:
        os._exit(0 if enter_namespaces(sys.executable) else 1)
    _, status = os.waitpid(child, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    walls = {"seccomp": refuse_system_calls(), "landlock": landlock_version()}
    os.write(1, json.dumps(walls | {"namespaces": status == 0}).encode())
    os._exit(0)


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


def landlock_version() -> int:
    """0 on a kernel without Landlock: before 5.13, or not enabled."""
    return max(0, int(libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)))


def restrict_files(program: str) -> bool:
    """With Landlock, allow opening only libraries, the program and standard input, for reading.

    Source: https://docs.kernel.org/userspace-api/landlock.html

    Returns:
        False if the kernel has no Landlock.
    """
    version = landlock_version()
    if version < 1:
        return False
    n_file_rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    network = 0b11 if version >= 4 else 0  # TCP: bind, connect
    scoped = 0b11 if version >= 6 else 0  # abstract Unix sockets, signals to other processes
    attributes = struct.pack("=QQQ", (1 << n_file_rights) - 1, network, scoped)
    rules = libc.syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for path in library_paths(program):
        rights = LANDLOCK_READ_AND_EXECUTE if os.path.isdir(path) else LANDLOCK_READ_FILE
        allow(rules, os.open(path, os.O_PATH), rights)
    allow(rules, os.open(program, os.O_PATH), LANDLOCK_EXECUTE_FILE)
    allow(rules, 0, LANDLOCK_READ_FILE)
    if libc.syscall(LANDLOCK_RESTRICT_SELF, rules, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    return True


def library_paths(program: str) -> list[str]:
    beside = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(program))), "lib")
    named = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    return [path for path in sorted({*LIBRARIES, beside, *named}) if os.path.exists(path)]


def allow(rules: int, descriptor: int, rights: int) -> None:
    rule = struct.pack("=Qi", rights, descriptor)
    if libc.syscall(LANDLOCK_ADD_RULE, rules, 1, rule, 0) != 0:
        if ctypes.get_errno() != errno.EBADFD:  # raised for memfds and pipes, which need no rule
            raise OSError(ctypes.get_errno(), "landlock_add_rule")


def enter_namespaces(program: str) -> bool:
    """Move to a file system with only libraries, the program and /proc/self/fd, and no network.

    Root may do so directly; others need a user namespace, which some systems forbid.

    Returns:
        False if the kernel refused.
    """
    parts = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC
    user, group = os.geteuid(), os.getegid()
    is_mapped = libc.unshare(parts) == 0
    if not is_mapped and libc.unshare(parts | CLONE_NEWUSER) != 0:
        return False
    root = "/dev"  # covered by the new root while that is filled; no library is there
    visible = [*library_paths(program), program, os.path.realpath(program), "/proc/self/fd"]
    visible += [path for path in (ALTERNATIVES,) if os.path.isdir(path)]
    try:
        if not is_mapped:  # no file could be made as an unknown user
            write("/proc/self/setgroups", "deny")
            write("/proc/self/uid_map", f"{user} {user} 1")
            write("/proc/self/gid_map", f"{group} {group} 1")
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        mount("tmpfs", root, "tmpfs", 0)
        for path in visible:
            target = root + os.path.abspath(path)
            if os.path.isdir(path):
                os.makedirs(target, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.close(os.open(target, os.O_CREAT | os.O_RDONLY, 0o755))
            mount(path, target, None, MS_BIND | MS_REC)
        os.chdir(root)
        if libc.pivot_root(b".", b".") != 0:
            return False
        if libc.umount2(b".", MNT_DETACH) != 0:
            return False
        os.chdir("/")
    except OSError:
        return False
    drop_capabilities()  # a new user namespace gives them back
    return True


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    encoded = None if kind is None else kind.encode()
    arguments = os.fsencode(source), os.fsencode(target), encoded, ctypes.c_ulong(flags), None
    if libc.mount(*arguments) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def architecture() -> int | None:
    return {"x86_64": X86_64, "aarch64": AARCH64}.get(os.uname().machine)


def refuse_system_calls() -> bool:
    """Install a seccomp filter: calls in REFUSED fail with EPERM, `clone` only makes threads.

    `clone3` and `openat2` fail with ENOSYS, because their flags are in memory, where a filter
    cannot see them; the C library then falls back to `clone` and `openat`.

    Returns:
        False if the filter could not be installed.
    """
    arch = architecture()
    if arch is None:
        return False
    filter_ = seccomp_filter(arch, os.getpid())
    buffer = ctypes.create_string_buffer(filter_, len(filter_))
    # struct sock_fprog: a count, padding, a pointer
    program = struct.pack("HxxxxxxP", len(filter_) // 8, ctypes.addressof(buffer))
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program)


def seccomp_filter(arch: int, pid: int) -> bytes:
    """The filter in classic BPF; 8 bytes an instruction: code, jumps if true and false, operand.

    Args:
        pid: the process may signal its own threads, as `abort` does.
    """
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allowed, killed = 0x7FFF0000, 0x80000000
    eperm, enosys = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    nr_at, arch_at, arguments_at = 0, 4, 16  # offsets in struct seccomp_data
    column = ARCHITECTURES.index(arch)
    lines = [
        (load, 0, 0, arch_at),
        (equal, 1, 0, arch),
        (give, 0, 0, killed),
        (load, 0, 0, nr_at),
    ]
    if arch == X86_64:
        lines += [(at_least, 0, 1, X32_BIT), (give, 0, 0, killed)]
    lines += [(at_least, 0, 1, NEWEST_REVIEWED + 1), (give, 0, 0, enosys)]
    for call, answer in (
        *((numbers, eperm) for numbers in REFUSED.values()),
        (CLONE3, enosys),
        (OPENAT2, enosys),
    ):
        number = call[column]
        if number is not None:
            lines += [(equal, 0, 1, number), (give, 0, 0, answer)]

    # call, argument, test, operands, answer if the argument passes the test for one, else
    for call, argument, test, operands, if_any, otherwise in (
        (OPEN, 1, any_bit, (WRITING,), eperm, allowed),
        (OPENAT, 2, any_bit, (WRITING,), eperm, allowed),
        (FCNTL, 1, equal, HARMLESS_FCNTL, allowed, eperm),
        (PRCTL, 0, equal, (PR_SET_PDEATHSIG, PR_SCHED_CORE, PR_SET_PTRACER), eperm, allowed),
        (PRLIMIT, 0, equal, (0, pid), allowed, eperm),
        (TGKILL, 0, equal, (pid,), allowed, eperm),
        (CLONE, 0, any_bit, (CLONE_THREAD,), allowed, eperm),
    ):
        number = call[column]
        if number is None:
            continue
        n = len(operands)
        lines += [(equal, 0, n + 3, number), (load, 0, 0, arguments_at + 8 * argument)]
        lines += [(test, n - i, 0, operand) for i, operand in enumerate(operands)]
        lines += [(give, 0, 0, otherwise), (give, 0, 0, if_any)]
    lines.append((give, 0, 0, allowed))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def leave_network() -> bool:
    """Move to an empty network namespace, the next best option without a filter."""
    return bool(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["walls"]:
            write_walls()
        else:
            main(sys.argv[1:])
    finally:
        os._exit(UNAVAILABLE)  # the program was not started
