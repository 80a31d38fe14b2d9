"""The sandbox around ffmpeg: what a hostile file or program cannot do."""

import errno
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from models.audio import ffmpeg_child, sandbox
from models.audio.decode import decode
from models.audio.errors import DecoderKilled
from models.audio.ffmpeg_child import output_of, run_sandboxed
from models.audio.memory_file import memory_file
from models.audio.probe import probe
from models.audio.recording import SAMPLE_RATE
from service import doctor, processes
from tests.audio_files import decoded, decoded_bytes, noise, refusal, slow, tones, wav
from tests.processes import kill_decoders

ROOT = Path(__file__).parent.parent


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio {port} RTP/AVP 0\n",
    "xspf": '<?xml version="1.0"?><playlist xmlns="http://xspf.org/ns/0/" version="1"><trackList>'
    "<track><location>{target}</location></track></trackList></playlist>",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    '<AdaptationSet contentType="audio"><Representation id="1" bandwidth="1"><BaseURL>{target}'
    "</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "pls": "[playlist]\nFile1={target}\n",
    "rtsp": "RTSPtext\nrtsp://127.0.0.1:{port}/x\n",
    "script": "; a script\nimport os\nos.system('touch {target}')\n",
}
COMMON_PLAYLISTS = ("m3u8", "ffconcat")


@pytest.mark.parametrize("kind", [k if k in COMMON_PLAYLISTS else slow(k) for k in PLAYLISTS])
def test_a_playlist_opens_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Even without Landlock: playlist formats are not on the allow-list."""
    sandbox_with(monkeypatch, tmp_path, NO_LANDLOCK)
    canary = tmp_path / "canary.wav"
    canary.write_bytes(wav(tones(300)))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        for target in (f"file:{canary}", f"http://127.0.0.1:{port}/x.wav"):
            os.utime(canary, (1, 2))  # older than its content, so that any reading shows
            error = refusal(PLAYLISTS[kind].format(target=target, port=port).encode())
            assert error.code == "unreadable_audio"
            assert canary.stat().st_atime == 1
        with pytest.raises(BlockingIOError):
            server.accept()


def in_sandbox(code: str, *, seconds: float = 20, path: Path | None = None) -> str:
    """Run a Python program in place of ffmpeg and return its output."""
    command = [sys.executable, "-I", "-S", "-c", code]
    with (
        memory_file([b"recording"]) if path is None else path.open("r+b") as file,
        run_sandboxed(command, file, seconds=seconds) as child,
    ):
        return output_of(child).read().decode()


ON_FILES = {
    "the user's files": "os.open({secret!r}, os.O_RDONLY)",
    "a list of files": "os.listdir('/')",
    "the parent's environment": "os.open(f'/proc/{{os.getppid()}}/environ', os.O_RDONLY)",
    "a new file": "os.open({secret!r} + '.new', os.O_WRONLY | os.O_CREAT)",
    "writing the input": "os.open('/proc/self/fd/0', os.O_WRONLY)",
    "removing a file": "os.unlink({secret!r})",
}
ATTEMPTS = ON_FILES | {
    "a socket": "import socket; socket.socket()",
    "a pair of sockets": "import socket; socket.socketpair()",
    "a process": "os.fork() or os._exit(0)",
    "a signal": "os.kill(os.getppid(), 0)",
    "namespaces": "libc.unshare(0x200) and fail()",
    "ptrace": "libc.ptrace(0, 0, 0, 0) and fail()",
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_sandbox_refuses(attempt: str, tmp_path: Path) -> None:
    if attempt in ON_FILES and sandbox.libc.syscall(444, None, 0, 1) < 1:
        pytest.skip("this kernel has no Landlock")
    secret = tmp_path / "secret"
    secret.write_text("x")
    recording = tmp_path / "recording"
    recording.write_text("x")
    program = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def fail():
    raise OSError(ctypes.get_errno(), "")
try:
    {ATTEMPTS[attempt].format(secret=str(secret))}
    print("allowed")
except PermissionError:
    print("refused")
"""
    assert run_outside(program, recording) == "allowed\n"
    secret.write_text("x")
    assert in_sandbox(program, path=recording) == "refused\n"


def run_outside(program: str, path: Path) -> str:
    """The same without the sandbox, to show that the attempt succeeds there."""
    command = [sys.executable, "-I", "-S", "-c", program]
    with path.open("r+b") as file:
        return subprocess.run(command, stdin=file, capture_output=True, text=True).stdout


BY_SECCOMP = {
    "chmod": "os.chmod(path, 0o644)",
    "fchmod": "os.fchmod(0, 0o644)",
    "fchmodat2": "call(452, AT_CWD, name, 0o644, 0)",
    "chown": "os.chown(path, os.getuid(), os.getgid())",
    "utime": "os.utime(path)",
    "setxattr": "os.setxattr(path, 'user.x', b'x')",
    "removexattr": "os.setxattr(path, 'user.y', b'y'), os.removexattr(path, 'user.y')",
    "chattr": "fcntl.ioctl(0, 0x80086601, bytes(8))",  # FS_IOC_GETFLAGS
    "truncating": "os.truncate(path, 0)",
    "opening to truncate": "os.open(path, os.O_RDONLY | os.O_TRUNC)",
    "opening to write": "os.open(path, os.O_WRONLY)",
    "opening to read and write": "open(path, 'r+b')",
    "creating": "os.open(path + '.new', os.O_RDONLY | os.O_CREAT)",
    "openat2": "call(437, AT_CWD, name, bytes(24), 24)",
    "making a folder": "os.mkdir(path + '.folder')",
    "renaming": "os.rename(path, path)",
    "removing": "os.unlink(path + '.spare')",
    "locking": "fcntl.flock(0, fcntl.LOCK_SH)",
    "record locks": "fcntl.lockf(0, fcntl.LOCK_SH)",
    "signals by F_SETOWN": "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "kill": "os.kill(os.getppid(), 0)",
    "tkill": "by_name('tkill', os.getppid(), 0)",
    "tgkill": "by_name('tgkill', os.getppid(), os.getppid(), 0)",
    "pidfd_open": "os.pidfd_open(os.getppid())",
    "prlimit": "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)",
    "setpriority": "os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(0, os.getppid()))",
    "setaffinity": "os.sched_setaffinity(os.getppid(), os.sched_getaffinity(os.getppid()))",
    "setscheduler": "os.sched_setscheduler(os.getppid(), os.SCHED_OTHER, os.sched_param(0))",
    "outliving the parent": "not libc.prctl(1, 0) or fail()",
    "leaving the group": "os.setpgid(0, 0)",
    "System V memory": "by_name('shmget', 4711, 0, 0)",
    "System V semaphores": "by_name('semget', 4711, 0, 0)",
    "System V messages": "by_name('msgget', 4711, 0)",
    "io_uring": "call(425, 1, bytes(120))",
    "keys": "by_name('keyctl', 0, -3, 0)",
    "an unknown system call": "call(900) and fail()",
}
ATTEMPT_ALL = """
import ctypes, errno, fcntl, json, os, resource, sys
libc = ctypes.CDLL(None, use_errno=True)
AT_CWD = -100
path, attempts, numbers = {path!r}, {attempts!r}, {numbers!r}
name = path.encode()
def fail():
    raise OSError(ctypes.get_errno(), "")
def call(number, *arguments):
    return libc.syscall(number, *arguments) >= 0 or fail()
def by_name(name, *arguments):
    return call(numbers[name], *arguments)
results = {{}}
for attempt, code in attempts.items():
    try:
        exec(code)
        results[attempt] = "allowed"
    except OSError as error:
        results[attempt] = "refused" if error.errno in (1, 38) else errno.errorcode[error.errno]
print(json.dumps(results))
"""


def test_without_any_other_wall_system_calls_that_change_anything_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Old kernels have no Landlock, or one that leaves out signals, sizes and attributes."""
    path = tmp_path / "file"
    path.write_text("x")
    (tmp_path / "file.spare").write_text("x")
    column = sandbox.ARCHITECTURES.index(sandbox.architecture() or 0)
    numbers = {name: call[column] for name, call in sandbox.REFUSED.items()}
    numbers["tgkill"] = sandbox.TGKILL[column]
    program = ATTEMPT_ALL.format(path=str(path), attempts=BY_SECCOMP, numbers=numbers)

    outside = json.loads(run_outside(program, path))
    (tmp_path / "file.spare").write_text("x")
    sandbox_with(monkeypatch, tmp_path, NO_LANDLOCK | NO_NAMESPACES)
    monkeypatch.setattr(ffmpeg_child._Policy, "allow_weak", True)
    inside = json.loads(in_sandbox(program, path=path))

    assert inside == dict.fromkeys(BY_SECCOMP, "refused")
    # a container may refuse some of them to everybody
    assert [name for name, result in outside.items() if result == "allowed"][:8]
    assert outside["chmod"] == outside["setpriority"] == outside["prlimit"] == "allowed"


@pytest.mark.parametrize("arch", sandbox.ARCHITECTURES)
def test_the_filter_answers_alike_on_every_architecture(arch: int) -> None:
    """Run by an interpreter, because a machine has one architecture only."""
    column = sandbox.ARCHITECTURES.index(arch)
    filter_ = sandbox.seccomp_filter(arch, 4711)

    def answer(call: tuple[int | None, int | None], *arguments: int) -> str:
        number = call[column]
        assert number is not None
        return run_filter(filter_, arch, number, arguments)

    for name, call in sandbox.REFUSED.items():
        assert call[column] is None or answer(call) == "EPERM", name
    reading, writing = os.O_RDONLY | os.O_CLOEXEC, os.O_RDWR
    assert answer(sandbox.OPENAT, 0, 0, reading) == "allowed"
    assert answer(sandbox.OPENAT, 0, 0, writing) == "EPERM"
    assert answer(sandbox.FCNTL, 0, 3) == "allowed"
    assert answer(sandbox.FCNTL, 0, 8) == "EPERM"  # F_SETOWN
    assert answer(sandbox.PRCTL, 15) == "allowed"
    assert answer(sandbox.PRCTL, sandbox.PR_SET_PDEATHSIG) == "EPERM"
    assert [answer(sandbox.PRLIMIT, pid) for pid in (0, 1)] == ["allowed", "EPERM"]
    assert [answer(sandbox.TGKILL, pid) for pid in (4711, 1)] == ["allowed", "EPERM"]
    assert [answer(sandbox.CLONE, flags) for flags in (0x10F00, 17)] == ["allowed", "EPERM"]
    assert answer(sandbox.CLONE3) == answer(sandbox.OPENAT2) == "ENOSYS"
    assert run_filter(filter_, arch, sandbox.NEWEST_REVIEWED + 1, ()) == "ENOSYS"
    assert run_filter(filter_, 0x40000003, 1, ()) == "killed"  # 32 bits
    read = {sandbox.X86_64: 0, sandbox.AARCH64: 63}[arch]
    assert run_filter(filter_, arch, read, ()) == "allowed"


def run_filter(filter_: bytes, arch: int, number: int, arguments: Sequence[int]) -> str:
    data = struct.pack("=IIQ6Q", number, arch, 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
    lines = list(struct.iter_unpack("=HBBI", filter_))
    at, loaded = 0, 0
    while True:
        code, if_true, if_false, operand = lines[at]
        at += 1
        if code == 0x06:
            codes = {0x7FFF0000: "allowed", 0x80000000: "killed"}
            return codes.get(operand) or errno.errorcode[operand & 0xFFFF]
        if code == 0x20:
            (loaded,) = struct.unpack_from("=I", data, operand)
        else:
            test = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: bool(loaded & operand)}
            at += if_true if test[code] else if_false


HEADERS = {
    0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),  # arm64 has the generic numbers
}


@pytest.mark.parametrize("column", HEADERS)
def test_the_numbers_of_system_calls_are_the_kernels(column: int) -> None:
    if not HEADERS[column].exists():
        pytest.skip("the kernel's headers are not installed")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[column].read_text())
    numbers = {name: int(number) for name, number in defined}
    calls = sandbox.REFUSED | {
        "openat": sandbox.OPENAT,
        "openat2": sandbox.OPENAT2,
        "fcntl": sandbox.FCNTL,
        "prctl": sandbox.PRCTL,
        "prlimit64": sandbox.PRLIMIT,
        "tgkill": sandbox.TGKILL,
        "clone": sandbox.CLONE,
        "clone3": sandbox.CLONE3,
    }
    newest = max(number for name, number in numbers.items() if name != "syscalls")
    for name, call in calls.items():
        if (call[column] or 0) <= newest:  # the headers know it
            assert call[column] == numbers.get(name), name


def test_a_sandboxed_program_can_reopen_its_input_and_start_threads() -> None:
    program = """
import threading
thread = threading.Thread(target=print, args=(open("/proc/self/fd/0").read(),))
thread.start()
thread.join()
"""
    assert in_sandbox(program) == "recording\n"


def test_sandboxed_ffmpeg_reaches_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        command = ["ffmpeg", "-nostdin", "-v", "quiet", "-i", url, "-f", "null", "-"]
        with memory_file([b"x"]) as file, run_sandboxed(command, file, seconds=20) as child:
            pass
        assert child.returncode > 0
        with pytest.raises(BlockingIOError):
            server.accept()


def test_secrets_in_the_environment_do_not_reach_the_sandbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FIELDSCRIBE_SECRET", "x")
    names = in_sandbox("import os; print(*sorted(os.environ))").split()
    assert set(names) <= {"PATH", "LD_LIBRARY_PATH", "LANG", "LC_CTYPE"}


def test_memory_has_a_limit() -> None:
    program = "try: bytearray(4 << 30)\nexcept MemoryError: print('refused')"
    assert in_sandbox(program) == "refused\n"


def test_processor_time_has_a_limit() -> None:
    program = "import resource; print(*resource.getrlimit(resource.RLIMIT_CPU))"
    assert in_sandbox(program, seconds=7) == "7 7\n"


@pytest.mark.slow
def test_an_endless_loop_hits_the_limit() -> None:
    with pytest.raises(DecoderKilled, match="limit"):
        in_sandbox("while True: pass", seconds=1)


def test_elapsed_time_has_a_limit() -> None:
    with pytest.raises(DecoderKilled, match="limit"):
        in_sandbox("import time; time.sleep(60)", seconds=0.1)


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_decoder_is_not_blamed_on_the_recording(with_signal: signal.Signals) -> None:
    """The kernel was out of memory, or the service was stopped: the next try may succeed."""
    content = wav(noise(60 * SAMPLE_RATE))

    with memory_file([content]) as file, pytest.raises(DecoderKilled) as caught:
        decode(file, on_progress=lambda _: kill_decoders(with_signal))
    assert caught.value.retryable
    assert decoded_bytes(content).duration == 60


def test_a_killed_probe_is_not_blamed_on_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(child: "subprocess.Popen[bytes]") -> IO[bytes]:
        child.kill()
        assert child.stdout is not None
        return child.stdout

    monkeypatch.setattr("models.audio.probe.output_of", kill)
    with memory_file([wav(noise(16_000))]) as file, pytest.raises(DecoderKilled):
        probe(file)


def test_the_child_dies_with_its_parent() -> None:
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from models.audio.ffmpeg_child import output_of, run_sandboxed
from models.audio.memory_file import memory_file
code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
command = [sys.executable, "-I", "-S", "-c", code]
with run_sandboxed(command, memory_file([b"x"]), seconds=60) as child:
    print(output_of(child).readline().decode(), flush=True)
    output_of(child).read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(child)


def running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def sandbox_with(monkeypatch: pytest.MonkeyPatch, folder: Path, changes: dict[str, str]) -> None:
    """Use a sandbox with these changes to its source, as on a less capable machine."""
    text = Path(sandbox.__file__).read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    text = text.replace("def main(", "def refuse(flags):\n    return -1\n\n\ndef main(")
    changed = folder / "sandbox.py"
    changed.write_text(text)
    monkeypatch.setattr(sandbox, "__file__", str(changed))


NO_LANDLOCK = {"libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)": "0"}
NO_SECCOMP = {"arch = architecture()": "arch = None"}
NO_NAMESPACES = {"libc.unshare(": "refuse("}


def test_nothing_is_decoded_if_the_network_cannot_be_cut_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox_with(monkeypatch, tmp_path, NO_SECCOMP | NO_NAMESPACES)
    error = refusal(wav(tones(300)))
    assert error.code == "sandbox_unavailable" and "network" in str(error)


def test_nothing_is_decoded_if_no_wall_hides_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox_with(monkeypatch, tmp_path, NO_LANDLOCK | NO_NAMESPACES)
    error = refusal(wav(tones(300)))
    assert error.code == "sandbox_unavailable"
    assert "Landlock" in str(error) and "FIELDSCRIBE_ALLOW_WEAK_SANDBOX" in str(error)


def test_an_administrator_can_accept_that_no_wall_hides_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox_with(monkeypatch, tmp_path, NO_LANDLOCK | NO_NAMESPACES)
    monkeypatch.setattr(ffmpeg_child._Policy, "allow_weak", False)  # restored afterwards
    ffmpeg_child.allow_weak_sandbox(True)
    assert decoded_bytes(wav(tones(300))).duration == 2


def test_without_landlock_namespaces_hide_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not ffmpeg_child.find_walls().namespaces:
        pytest.skip("namespaces are not allowed here")
    sandbox_with(monkeypatch, tmp_path, NO_LANDLOCK)
    secret = tmp_path / "secret"
    secret.write_text("x")
    program = f"""
import os
hidden = {str(secret)!r}, f"/proc/{{os.getppid()}}/environ", "/etc/passwd"
print(*filter(os.path.exists, hidden), open("/proc/self/fd/0").read())
"""
    assert in_sandbox(program) == "recording\n"
    assert decoded_bytes(wav(tones(300))).duration == 2


def test_the_walls_of_this_kernel_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    walls = ffmpeg_child.find_walls()
    assert walls.landlock == max(0, sandbox.libc.syscall(444, None, 0, 1))

    sandbox_with(monkeypatch, tmp_path, NO_SECCOMP | NO_NAMESPACES)
    walls = ffmpeg_child.find_walls()
    assert not walls.seccomp and not walls.namespaces


def test_without_seccomp_an_empty_network_namespace_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True).returncode != 0:
        pytest.skip("user namespaces are not allowed here")
    sandbox_with(monkeypatch, tmp_path, NO_SECCOMP | NO_LANDLOCK)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        program = f"""
import socket
try:
    socket.create_connection({address!r}, 5)
except OSError as error:
    print(error.strerror)
"""
        assert in_sandbox(program) == "Network is unreachable\n"
    assert decoded_bytes(wav(tones(300))).duration == 2


def test_without_landlock_the_network_is_blocked_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox_with(monkeypatch, tmp_path, NO_LANDLOCK)
    recording = tmp_path / "recording"
    recording.write_text("x")
    program = """
import os, socket
for attempt in (socket.socket, lambda: os.write(os.open("/proc/self/fd/0", os.O_WRONLY), b"y")):
    try:
        attempt()
    except OSError as error:
        print(error.strerror)
"""
    assert in_sandbox(program, path=recording) == "Operation not permitted\n" * 2
    assert recording.read_text() == "x"
    assert decoded_bytes(wav(tones(300))).duration == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to lose")
def test_root_loses_its_rights_in_the_sandbox_but_reads_the_recording(tmp_path: Path) -> None:
    program = "import os\ntry: os.setuid(1)\nexcept PermissionError: print('refused')"
    assert in_sandbox(program) == "refused\n"

    path = tmp_path / "somebody-elses.wav"
    path.write_bytes(wav(tones(300)))
    path.chmod(0o600)
    os.chown(path, 1000, 1000)
    assert decoded(path).duration == 2


def test_a_sandbox_that_fails_never_starts_the_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox_with(monkeypatch, tmp_path, {"drop_capabilities()\n    if": "1 / 0\n    if"})
    assert refusal(wav(tones(300))).code == "sandbox_unavailable"


def test_missing_ffmpeg_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert refusal(wav(tones(300))).code == "ffmpeg_missing"


WALLS = ffmpeg_child.Walls(seccomp=True, landlock=7, namespaces=False)
NO_WALLS = ffmpeg_child.Walls(seccomp=True, landlock=0, namespaces=False)


@pytest.mark.parametrize(
    ("walls", "allow_weak", "logged"),
    [
        (WALLS, False, "INFO seccomp, Landlock version 7, no namespaces"),
        (NO_WALLS, False, "ERROR no recording will be decoded"),
        (NO_WALLS, True, "WARNING a hostile recording could read"),
    ],
)
def test_each_start_logs_the_walls(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    walls: ffmpeg_child.Walls,
    allow_weak: bool,
    logged: str,
) -> None:
    monkeypatch.setattr(ffmpeg_child, "find_walls", lambda: walls)
    monkeypatch.setattr(ffmpeg_child._Policy, "allow_weak", False)
    caplog.set_level("INFO")
    processes.set_up_sandbox(allow_weak)

    level, text = logged.split(" ", 1)
    assert level == caplog.records[-1].levelname
    assert text in " ".join(caplog.messages[-1].split())
    assert str(walls) in caplog.text
    assert ffmpeg_child._Policy.allow_weak == allow_weak


@pytest.mark.parametrize("allow_weak", [False, True])
def test_the_doctor_says_that_nothing_hides_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, allow_weak: bool
) -> None:
    sandbox_with(monkeypatch, tmp_path, NO_LANDLOCK | NO_NAMESPACES)
    monkeypatch.setattr(ffmpeg_child._Policy, "allow_weak", False)

    (check,) = doctor.check_sandbox(allow_weak)

    assert check.status == ("warning" if allow_weak else "problem")
    assert "file" in check.message and "no namespaces" in check.message


def test_the_setting_reaches_the_engine_child() -> None:
    program = """
import os
from models.audio import ffmpeg_child
from service.worker import engine_child
engine_child.EngineChild.serve = lambda _: None
engine_child.main([str(os.getppid()), "scripts.stand_in.engine", "/v", "/w", "", "1", {!r}, ""])
os.write(2, repr(ffmpeg_child._Policy.allow_weak).encode())
"""
    for setting, expected in (("1", b"True"), ("0", b"False")):
        command = [sys.executable, "-W", "ignore", "-c", program.format(setting)]
        ran = subprocess.run(command, capture_output=True, cwd=ROOT, check=True)
        assert ran.stderr.endswith(expected)
