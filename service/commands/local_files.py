"""This user's record of uploaded files, kept on this machine only.

It holds the file names of each job, so that `fieldscribe jobs` can show them, and for each file,
under a hash, the session that it was uploaded to. It is never sent to the service.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from platformdirs import user_state_path

from service.exports.files import write_whole

MAX_ENTRIES = 5000  # of each kind; the oldest are forgotten first


class LocalFiles:
    def __init__(self, path: Path | None = None) -> None:
        self._path = path or user_state_path("fieldscribe") / "files.json"

    def of_jobs(self) -> dict[str, list[str]]:
        """The file names of each job, by the job's id."""
        return dict(self._read()["jobs"])

    def remember_job(self, job_id: str, names: Sequence[str]) -> None:
        self._change("jobs", lambda jobs: {**jobs, job_id: list(names)})

    def forget_job(self, job_id: str) -> None:
        if job_id in self.of_jobs():
            self._change("jobs", lambda jobs: {id: jobs[id] for id in jobs if id != job_id})

    def session_of(self, study: str, path: Path) -> str | None:
        """The code of the session that this file, with its present content, was uploaded to."""
        code = self._read()["sessions"].get(_key(study, path))
        return code if isinstance(code, str) else None

    def remember_session(self, study: str, path: Path, code: str) -> None:
        self._change("sessions", lambda sessions: {**sessions, _key(study, path): code})

    def _change(self, kind: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        with suppress(OSError), self._locked():  # without a state folder, nothing is remembered
            known = self._read()
            known[kind] = dict(list(change(known[kind]).items())[-MAX_ENTRIES:])
            write_whole(self._path, json.dumps(known))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other commands from changing the file, so that none loses an entry of another."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._path.with_suffix(".lock").open("ab") as file:
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            known = json.loads(self._path.read_text())
        except (OSError, ValueError):
            known = {}
        known = known if isinstance(known, dict) else {}
        found = {kind: known.get(kind) for kind in ("jobs", "sessions")}
        return {kind: value if isinstance(value, dict) else {} for kind, value in found.items()}


def _key(study: str, path: Path) -> str:
    status = path.stat()
    plain = json.dumps([study, str(path.resolve()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(plain.encode()).hexdigest()
