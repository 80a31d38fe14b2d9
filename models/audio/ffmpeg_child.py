"""Runs ffprobe and ffmpeg as sandboxed children, restricted to known formats and codecs.

A media file is a program for a parser: the children run in a sandbox (sandbox.py), get an open
descriptor and never a path, and may use only the formats and codecs listed here. Whatever they
print to stderr, which includes paths and tags, is discarded.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO

from models.audio import sandbox
from models.audio.errors import DecoderKilled, FfmpegMissing, SandboxUnavailable
from models.audio.recording import duration_in_words
from models.environment import child_environment

MEMORY_BYTES = 2 << 30  # address space of the child
KILLED = (-signal.SIGKILL, -signal.SIGXCPU, -signal.SIGTERM)

# What recorders, telephones, video calls and office programs write. Playlists, pictures, subtitles
# and other formats that refer to further files are left out.
# Source: `ffmpeg -demuxers`, `ffmpeg -decoders`.
FORMATS = "aac,aiff,amr,asf,au,avi,caf,dss,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav"
CODECS = (
    "aac,aac_fixed,aac_latm,ac3,ac3_fixed,alac,amrnb,amrwb,dss_sp,eac3,flac,g723_1,gsm,gsm_ms,"
    "libopencore_amrnb,libopencore_amrwb,libopus,libspeex,libvorbis,mp1,mp1float,mp2,mp2float,mp3,"
    "mp3float,opus,speex,vorbis,wmalossless,wmapro,wmav1,wmav2,wmavoice,adpcm_g726,adpcm_g726le,"
    "adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_yamaha,pcm_alaw,pcm_f32be,pcm_f32le,pcm_f64be,"
    "pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32be,pcm_s32le,pcm_s8,pcm_u8"
)
INPUT = "file:/proc/self/fd/0"  # reopens the descriptor, because a pipe cannot be read backwards
INPUT_OPTIONS: Mapping[str, object] = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
# Also the names of codecs that differ from those of their decoders.
READABLE_CODECS = frozenset(CODECS.split(",")) | {"amr_nb", "amr_wb"}

NO_FFMPEG = "ffmpeg is not installed: ask the administrator to install ffmpeg 5.1 or later."
NO_SANDBOX = (
    "This machine cannot run ffmpeg without network access, which needs Linux on x86-64 or arm64"
    " with seccomp or user namespaces: ask the administrator to allow one of them."
)

NO_FILE_WALL = (
    "This machine cannot hide its files from ffmpeg, which needs Landlock (Linux 5.13 or later) or"
    " user namespaces: ask the administrator to allow one of them, or to accept the risk with"
    " FIELDSCRIBE_ALLOW_WEAK_SANDBOX."
)


class _Policy:
    """This process's policy, which its `main` sets."""

    allow_weak = False


def allow_weak_sandbox(allow: bool) -> None:
    """Whether this process may run ffmpeg where nothing hides files from it.

    A hostile recording could then read every file that the service's user can read, although it
    could neither change nor send anything.
    """
    _Policy.allow_weak = allow


@dataclass(frozen=True)
class Walls:
    """The layers of the sandbox that this kernel supports.

    `landlock` is the version of its ABI, or 0; `namespaces`: user, mount and network namespaces.
    """

    seccomp: bool
    landlock: int
    namespaces: bool

    @property
    def hide_files(self) -> bool:
        return self.landlock > 0 or self.namespaces

    def __str__(self) -> str:
        landlock = f"Landlock version {self.landlock}" if self.landlock else "no Landlock"
        return (
            f"{'seccomp' if self.seccomp else 'no seccomp'}, {landlock},"
            f" {'namespaces' if self.namespaces else 'no namespaces'}"
        )


def find_walls() -> Walls:
    """Try each layer of the sandbox in a child process."""
    answer = subprocess.run(
        [sys.executable, "-I", "-S", sandbox.__file__, "walls"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment({"LANG": "C"}, only=("PATH", "LD_LIBRARY_PATH")),
        check=False,
    )
    return Walls(**json.loads(answer.stdout)) if answer.stdout else Walls(False, 0, False)


@contextmanager
def run_sandboxed(
    command: Sequence[str], file: BinaryIO, *, seconds: float
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run ffprobe or ffmpeg in the sandbox, with `file` as its standard input.

    The child has ended when the context exits, killed if the caller left early.

    Args:
        seconds: limit on processor time; on the clock it is four times that, for busy machines.

    Raises:
        FfmpegMissing, SandboxUnavailable, DecoderKilled: on leaving the context.
    """
    program = shutil.which(command[0])
    if program is None:
        raise FfmpegMissing(NO_FFMPEG)
    limits = [str(MEMORY_BYTES), str(math.ceil(seconds)), str(os.getpid())]
    limits.append(str(int(_Policy.allow_weak)))
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", sandbox.__file__, *limits, program, *command[1:]],
        stdin=file.fileno(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # ffmpeg would quote tags
        env=child_environment({"LANG": "C"}, only=("PATH", "LD_LIBRARY_PATH")),
        start_new_session=True,
    )
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        kill_group(child)

    timer = threading.Timer(4 * seconds, expire)
    timer.start()
    try:
        with child:
            try:
                yield child
                child.wait()
            finally:
                kill_group(child)
    finally:
        timer.cancel()
    if child.returncode == sandbox.UNAVAILABLE:
        raise SandboxUnavailable(NO_SANDBOX)
    if child.returncode == sandbox.FILES_EXPOSED:
        raise SandboxUnavailable(NO_FILE_WALL)
    if child.returncode == sandbox.PROGRAM_MISSING:
        raise FfmpegMissing(NO_FFMPEG)
    if expired.is_set() or child.returncode in KILLED:
        raise DecoderKilled(
            "Decoding was stopped, because memory ran out or it reached its limit of"
            f" {duration_in_words(seconds)} of processor time: try again, or export the recording"
            " as WAV and use that file."
        )


def words(options: Mapping[str, object]) -> list[str]:
    """Options as ffprobe takes them on its command line."""
    return [word for name, value in options.items() for word in (f"-{name}", str(value))]


def kill_group(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)


def output_of(child: "subprocess.Popen[bytes]") -> IO[bytes]:
    assert child.stdout is not None
    return child.stdout
