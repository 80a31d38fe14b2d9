"""Backups during the attack, some of them killed, and restores of those that finished."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from scripts.chaos_run import restored
from scripts.chaos_run.clients import Book, Submission, Upload
from scripts.chaos_run.engine import name_of
from scripts.chaos_run.site import Site
from scripts.stand_in.installation import ROOT
from service.settings import variable_name

CLI = "from service.commands.main import main; main()"
REFUSALS = (  # of a backup: the database is down or its disk is full
    "database_tool_failed",
    "database_not_started",
    "database_unreachable",
    "database_in_use",
    "disk_full",
)


class Backups(threading.Thread):
    def __init__(self, site: Site, folder: Path, book: Book, seed: int) -> None:
        super().__init__(daemon=True, name="backups")
        self._site, self._folder, self._book = site, folder, book
        self._random = random.Random(f"backups {seed}")
        self._running: subprocess.Popen[str] | None = None
        self._kill_after: float | None = None
        self._now = threading.Event()
        self.leaving = threading.Event()
        self.counts: Counter[str] = Counter()

    def kill(self, seconds: float) -> str | None:
        """Kill the backup or restore that is running, else one that starts now."""
        if self._running is None:
            self._kill_after = seconds
            self._now.set()
            return f"{seconds:.1f} s after it started"
        self._running.kill()
        return "while it was running"

    def run(self) -> None:
        number = 0
        while not self.leaving.is_set():
            self._now.wait(self._random.uniform(25, 60))
            self._now.clear()
            number += 1
            try:
                self._back_up_and_restore(self._folder / f"backup-{number}")
            except Exception as error:  # noqa: BLE001  # a bug of ours must not look like success
                self._book.report(f"backups: {type(error).__name__}: {error}")

    def finish(self) -> None:
        """End with a last, undisturbed backup."""
        self.leaving.set()
        self._now.set()
        self.join()
        self._kill_after = None
        self._back_up_and_restore(self._folder / "backup-last", must_succeed=True)

    def _back_up_and_restore(self, folder: Path, *, must_succeed: bool = False) -> None:
        known = self._snapshot()
        out, keys = folder / "data", folder / "keys"
        try:
            made = self._command("backup", str(out), "--keys-to", str(keys), "--json")
            if made is None:
                if must_succeed:
                    self._book.report("the last backup did not succeed")
                return
            self.counts["backups"] += 1
            if self._random.random() < 0.5:
                # Newer keys, whose ledger lists everything erased since the backup.
                gone = self._snapshot()["gone"]
                newer = self._command("backup", "--keys-to", str(keys), "--json")
                if newer is not None:
                    made["keys"], known["gone"] = newer["keys"], gone
            if must_succeed or self._random.random() < 0.6:
                self._restore(folder, made, known)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _restore(self, folder: Path, made: dict[str, Any], known: dict[str, Any]) -> None:
        for each in (folder, folder / "new"):  # the database's user must pass through
            each.mkdir(exist_ok=True)
            each.chmod(0o711)
        empty = {
            variable_name("data"): str(folder / "new/data"),
            variable_name("keys"): str(folder / "new/keys"),
        }
        arguments = ("restore", made["data"], "--keys-from", made["keys"], "--json")
        done = self._command(*arguments, variables=empty)
        if done is None:
            return
        self.counts["restores"] += 1
        for missing in done["missing"]:
            self._book.report(f"restore: {missing}")
        known["doubtful"] = self._snapshot()["doubtful"]
        checked = self._run(
            [sys.executable, "-m", restored.__name__], empty, input=json.dumps(known)
        )
        if checked.returncode:
            self._book.report(f"the check of a restore failed: {checked.stderr[-500:]}")
            return
        found = json.loads(checked.stdout)
        self.counts["recordings compared after a restore"] += found["recordings"]
        self.counts["transcripts compared after a restore"] += found["transcripts"]
        for each in found["violations"]:
            self._book.report(f"after a restore: {each}")

    def _snapshot(self) -> dict[str, Any]:
        """Everything acknowledged so far."""
        uploads, jobs = list(self._book.uploads), list(self._book.jobs)
        things: list[Upload | Submission] = [*uploads, *jobs]
        return {
            "recordings": {
                each.id: name_of(each.content)
                for each in uploads
                if each.is_ready and not each.deletion
            },
            "jobs": [job.id for job in jobs if job.id and not job.deletion],
            "transcripts": {
                job.id: [name_of(each.content) for each in job.uploads]
                for job in jobs
                if job.succeeded and not job.deletion
            },
            "gone": [each.id for each in things if each.deletion == "done"],
            "doubtful": [each.id for each in things if each.deletion],
        }

    def _command(
        self, *arguments: str, variables: dict[str, str] | None = None
    ) -> dict[str, Any] | None:
        """The JSON that a command printed; None if it was killed or the database was down."""
        done = self._run([sys.executable, "-c", CLI, *arguments], variables or {})
        if done.returncode == 0:
            answer: dict[str, Any] = json.loads(done.stdout)
            return answer
        name = arguments[0]
        if done.returncode < 0:
            self.counts[f"{name}s killed"] += 1
        elif any(code in done.stderr + done.stdout for code in REFUSALS):
            self.counts[f"{name}s refused"] += 1
        else:
            said = (done.stderr + done.stdout)[-800:]
            self._book.report(f"{name} ended with {done.returncode}: {said}")
        return None

    def _run(
        self, command: list[str], variables: dict[str, str], input: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        environment = {
            **os.environ,
            **self._site.settings.as_environment(),
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._running = process
        timer = None
        if self._kill_after is not None:
            timer = threading.Timer(self._kill_after, process.kill)
            timer.start()
            self._kill_after = None
        try:
            stdout, stderr = process.communicate(input)
        finally:
            self._running = None
            if timer is not None:
                timer.cancel()
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
