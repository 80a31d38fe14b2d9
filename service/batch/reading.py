"""Decodes the recordings of a batch ahead of time, so that ffmpeg works beside the models.

Memory stays bounded: the session being transcribed and those read ahead hold at most
MAX_HELD_SECONDS of audio, unless one session alone is longer. A session that would exceed the limit
is read when its turn comes.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, Self

from models.audio.decode import decode
from models.audio.probe import probe
from models.audio.recording import DecodedRecording
from models.errors import AudioError, Stopped
from models.progress import Progress, ignore
from service.errors import RecordingNotFound

MAX_HELD_SECONDS = 4 * 3600.0  # all channels added up; 0.9 GB
READERS = max(1, min(4, (os.cpu_count() or 1) // 2))  # each keeps one ffmpeg busy
POLL_SECONDS = 0.2


class _TooFarAhead(Exception):
    """There is no room for this session before its turn."""


class Reader:
    """Reads sessions ahead in background threads, and hands each over when its turn comes.

    Args:
        sessions: the recordings of each session by its name, in the order of their turns.
        split_channels: keep the channels apart.
        is_wanted: whether a session should be read ahead; called in another thread.
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
        self._held = dict.fromkeys(sessions, 0.0)  # s of audio in memory, all channels added up
        self._n_read = dict.fromkeys(sessions, 0)
        self._next = ""  # the session that the caller is waiting for
        self._current = ""  # the session that may take as much memory as it needs
        self._released: set[str] = set()
        self._postponed: set[str] = set()
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

    def take(self, name: str, progress: Progress = ignore) -> list[DecodedRecording]:
        """The recordings of a session; they count towards the limit until `release`.

        Args:
            progress: called with the fraction of the recordings that are read. An exception
                from it stops the reading.

        Raises:
            AudioError: one of its subclasses.
            RecordingNotFound
        """
        with self._changed:
            self._next = self._current = name
            self._postponed.discard(name)
            self._changed.notify_all()

        def on_poll() -> None:
            progress(self._n_read[name] / len(self._sessions[name]))

        _wait(self._ahead[name], on_poll)
        recordings = self._ahead.pop(name).result() or self._read(name, on_poll)
        on_poll()
        return recordings

    def fits(self, name: str, seconds: float, on_poll: Callable[[], None] = lambda: None) -> bool:
        """Whether a session has been read ahead and is at most this long, all channels added up.

        A session that is not wanted or cannot be read has length zero.
        """
        with self._changed:
            if name in self._postponed:
                return False
            self._next = name
            self._changed.notify_all()
        future = self._ahead[name]
        _wait(future, on_poll)
        too_far_ahead = future.exception() is None and future.result() is None
        return not too_far_ahead and self._held[name] <= seconds

    def postpone(self, name: str) -> None:
        """Free the audio of a session, which may be taken later and is then read again."""
        with self._changed:
            self._postponed.add(name)
            self._released.discard(name)
            self._held[name] = 0.0
            self._changed.notify_all()
        ahead = self._ahead.get(name)
        if ahead is None or ahead.done():
            self._ahead[name] = Future()
            self._ahead[name].set_result(None)

    def release(self, name: str) -> None:
        """Free the audio of a session, whether or not it was taken."""
        with self._changed:
            self._released.add(name)
            self._ahead.pop(name, None)
            self._held[name] = 0.0
            self._changed.notify_all()

    def _read_ahead(self, name: str) -> list[DecodedRecording] | None:
        """None if the session has to wait for its turn; an empty list if it is not wanted."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or name == self._next
                    or name in self._postponed
                    or self._held_seconds() < MAX_HELD_SECONDS
                )
            )
        try:
            return self._read(name) if self._is_wanted(name) else []
        except _TooFarAhead:
            return None

    def _read(
        self, name: str, on_poll: Callable[[], None] = lambda: None
    ) -> list[DecodedRecording]:
        paths, recordings, seconds = self._sessions[name], list[DecodedRecording](), 0.0
        self._n_read[name] = 0
        try:
            for path in paths:
                on_poll()
                try:
                    recordings.append(self._decode(path, name, seconds, on_poll))
                except (AudioError, RecordingNotFound) as error:
                    if len(paths) > 1:
                        error.args = (f"Recording {len(recordings) + 1} of {len(paths)}: {error}",)
                    raise
                seconds += recordings[-1].samples.shape[0] * recordings[-1].duration
                self._n_read[name] += 1
        except BaseException:
            with self._changed:
                self._held[name] = 0.0
                self._changed.notify_all()
            raise
        return recordings

    def _decode(
        self, path: Path, name: str, held_before: float, on_poll: Callable[[], None]
    ) -> DecodedRecording:
        """
        Args:
            held_before: seconds of audio in the session's earlier recordings.
        """
        with open_recording(path) as file:
            info = probe(file)
            n_channels = info.channels if self._split else max(1, len(info.tracks))
            self._reserve(name, held_before + n_channels * (info.duration or 0.0))

            def on_progress(seconds: float) -> None:
                self._reserve(name, held_before + n_channels * seconds)
                on_poll()

            return decode(file, info=info, split_channels=self._split, on_progress=on_progress)

    def _reserve(self, name: str, seconds: float) -> None:
        """Count this much audio for a session.

        Raises:
            Stopped: the reader is closed or the session released.
            _TooFarAhead: it would exceed the limit, and it is not the session's turn.
        """
        with self._changed:
            if self._closed or name in self._released:
                raise Stopped("The recording is no longer wanted")
            self._held[name] = max(seconds, self._held[name])
            too_much = self._held_seconds() > MAX_HELD_SECONDS
            if name != self._current and (too_much or name in self._postponed):
                raise _TooFarAhead

    def _held_seconds(self) -> float:
        return sum(self._held.values())


def _wait(future: "Future[Any]", on_poll: Callable[[], None]) -> None:
    while not wait((future,), timeout=POLL_SECONDS).done:
        on_poll()


@contextmanager
def open_recording(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file; opening a pipe would wait for ever.

    Raises:
        RecordingNotFound
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RecordingNotFound(f"The recording cannot be read ({error.strerror}).") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RecordingNotFound(
            "This is a folder, a pipe or a device, not a recording: name the files themselves."
        )
    with open(descriptor, "rb") as file:
        yield file
