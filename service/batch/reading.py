"""Recordings of a batch, decoded ahead of their turn: ffmpeg works beside the models.

Memory stays bounded: what is being transcribed and what is read ahead are together at most
SOUND_SECONDS, unless one session alone is longer. What would go beyond is read when its turn comes.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from models.audio.decode import decode
from models.audio.probe import probe
from models.audio.recording import Recording
from models.errors import AudioError, Stopped
from models.progress import Progress, ignore
from service.errors import RecordingNotFound

SOUND_SECONDS = 4 * 3600.0  # of all channels; 0.9 GB
READERS = max(1, min(4, (os.cpu_count() or 1) // 2))  # each keeps one ffmpeg busy
POLL_SECONDS = 0.2


class _TooFarAhead(Exception):
    """There is no room for this session before its turn."""


class Reader:
    """
    Args:
        sessions: the recordings of each by its name, in the order of their turns.
        split_channels: keep the channels apart.
        is_wanted: whether a session is worth reading ahead; asked by another thread.
    """

    def __init__(
        self,
        sessions: Mapping[str, Sequence[Path]],
        *,
        split_channels: bool,
        is_wanted: Callable[[str], bool],
    ) -> None:
        self._sessions, self._split, self._is_wanted = sessions, split_channels, is_wanted
        self._changed = threading.Condition()
        self._held = dict.fromkeys(sessions, 0.0)  # seconds of sound in memory, of all channels
        self._n_read = dict.fromkeys(sessions, 0)
        self._next = ""  # whom somebody waits for
        self._turn = ""  # and who may take as much memory as it needs
        self._gone: set[str] = set()
        self._closed = False
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._ahead = {name: self._pool.submit(self._read_ahead, name) for name in sessions}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._pool.shutdown(cancel_futures=True)

    def take(self, name: str, progress: Progress = ignore) -> list[Recording]:
        """A session's recordings; they count until `let_go`.

        Args:
            progress: called with the share of its recordings that are read. What it raises stops
                the reading.

        Raises:
            AudioError: one of its children.
            RecordingNotFound
        """
        with self._changed:
            self._next = self._turn = name
            self._changed.notify_all()

        def alive() -> None:
            progress(self._n_read[name] / len(self._sessions[name]))

        _wait(self._ahead[name], alive)
        recordings = self._ahead.pop(name).result() or self._read(name, alive)
        alive()
        return recordings

    def fits(self, name: str, seconds: float, alive: Callable[[], None] = lambda: None) -> bool:
        """Whether a session has been read ahead, and has at most so much sound in all channels.

        One that is not wanted or cannot be read has none.
        """
        with self._changed:
            self._next = name
            self._changed.notify_all()
        future = self._ahead[name]
        _wait(future, alive)
        too_far_ahead = future.exception() is None and future.result() is None
        return not too_far_ahead and self._held[name] <= seconds

    def let_go(self, name: str) -> None:
        """Nobody wants a session's sound any more, whether or not it was taken."""
        with self._changed:
            self._gone.add(name)
            self._ahead.pop(name, None)
            self._held[name] = 0.0
            self._changed.notify_all()

    def _read_ahead(self, name: str) -> list[Recording] | None:
        """None where it has to wait for its turn, nothing where it is not wanted."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or name == self._next or self._sound() < SOUND_SECONDS
            )
        try:
            return self._read(name) if self._is_wanted(name) else []
        except _TooFarAhead:
            return None

    def _read(self, name: str, alive: Callable[[], None] = lambda: None) -> list[Recording]:
        paths, recordings, sound = self._sessions[name], list[Recording](), 0.0
        self._n_read[name] = 0
        try:
            for path in paths:
                alive()
                try:
                    recordings.append(self._decoded(path, name, sound, alive))
                except (AudioError, RecordingNotFound) as error:
                    if len(paths) > 1:
                        error.args = (f"Recording {len(recordings) + 1} of {len(paths)}: {error}",)
                    raise
                sound += recordings[-1].samples.shape[0] * recordings[-1].duration
                self._n_read[name] += 1
        except BaseException:
            with self._changed:
                self._held[name] = 0.0
                self._changed.notify_all()
            raise
        return recordings

    def _decoded(
        self, path: Path, name: str, before: float, alive: Callable[[], None]
    ) -> Recording:
        with open_recording(path) as file:
            info = probe(file)
            n_channels = info.channels if self._split else 1
            self._hold(name, before + n_channels * (info.duration or 0.0))

            def on_progress(seconds: float) -> None:
                self._hold(name, before + n_channels * seconds)
                alive()

            return decode(file, info=info, split_channels=self._split, on_progress=on_progress)

    def _hold(self, name: str, seconds: float) -> None:
        with self._changed:
            if self._closed or name in self._gone:
                raise Stopped("Nobody wants the recording any more")
            self._held[name] = max(seconds, self._held[name])
            if name != self._turn and self._sound() > SOUND_SECONDS:
                raise _TooFarAhead

    def _sound(self) -> float:
        return sum(self._held.values())


def _wait(future: "Future[Any]", alive: Callable[[], None]) -> None:
    while not wait((future,), timeout=POLL_SECONDS).done:
        alive()


@contextmanager
def open_recording(path: Path) -> Iterator[BinaryIO]:
    """Raises RecordingNotFound for what is no file too: a pipe would be waited for without end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RecordingNotFound(f"The recording cannot be read ({error.strerror}).") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RecordingNotFound(
            "This is a folder, a pipe or a device and no recording; name the files themselves."
        )
    with open(descriptor, "rb") as file:
        yield file
