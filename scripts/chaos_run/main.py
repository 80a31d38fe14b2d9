"""`scripts/chaos`: attack a service for some minutes, then count everything.

Exit status 0: everything agrees; 1: something does not, and the differences are printed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from scripts.chaos_run.backups import Backups
from scripts.chaos_run.clients import Administrator, Book, Client, Deidentifier, Researcher
from scripts.chaos_run.count import Count, read_logs
from scripts.chaos_run.faults import Faults
from scripts.chaos_run.proxy import Proxy
from scripts.chaos_run.site import Site, SmallDisk, wait_for_answer
from service.database.tables import FINAL, Handoff, Job
from service.domain.clock import LEASE
from service.services import Services, open_services

START_TIMEOUT = 120.0  # s
SETTLE_TIMEOUT = 900.0  # s after the last fault in which every job must end


@dataclass
class Outcome:
    seed: int
    minutes: float
    faults: Counter[str] = field(default_factory=Counter)
    network: Counter[str] = field(default_factory=Counter)
    backups: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    figures: dict[str, int] = field(default_factory=dict)
    job_errors: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)
    settled_after: float = 0.0  # s
    wrong: list[str] = field(default_factory=list)

    @property
    def n_faults(self) -> int:
        return self.faults.total()

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "n_faults": self.n_faults}


def attack(minutes: float, seed: int, every: float = 9.0, say: Any = lambda text: None) -> Outcome:
    """
    Args:
        every: seconds between two faults, on average.
        say: called with a line of progress from time to time.
    """
    folder = Path(tempfile.mkdtemp(prefix="fieldscribe-chaos-", dir=fast_folder()))
    folder.chmod(0o711)
    disk = SmallDisk(folder)
    site = Site(folder, disk.folder)
    outcome = Outcome(seed, minutes)
    try:
        run(site, disk, folder, outcome, every, say)
    finally:
        site.end()
        disk.empty()
        disk.unmount()
        if outcome.wrong:
            keep = folder.with_name(f"{folder.name}.logs")
            keep.mkdir()
            for path in (site.serve_log, site.settings.database / "postgres.log"):
                if path.exists():
                    shutil.copy(path, keep)
            say(f"logs are in {keep}")
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def fast_folder() -> Path | None:
    """A folder in memory, where syncing files costs nothing."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else None


def run(
    site: Site, disk: SmallDisk, folder: Path, outcome: Outcome, every: float, say: Any
) -> None:
    seed = outcome.seed
    site.begin()
    wait_for_answer(site, START_TIMEOUT)
    owner = site.settings.owner_token.read_text().strip()
    proxy = Proxy(site.settings.port, seed)
    proxy.begin()
    book = Book()
    clients: list[Client] = [
        *(Researcher(i, proxy.port, owner, book, seed) for i in range(2)),
        Deidentifier("deidentifier", proxy.port, owner, book, seed),
        Administrator("administrator", proxy.port, owner, book, seed),
    ]
    backups = Backups(site, folder, book, seed)
    faults = Faults(site, disk, proxy, backups, seed)
    outcome.left_out = faults.left_out
    for thread in (*clients, backups):
        thread.start()
    pause = random.Random(f"pauses {seed}")
    end = time.monotonic() + 60 * outcome.minutes
    while time.monotonic() < end:
        next_at = time.monotonic() + pause.uniform(0.4 * every, 1.6 * every)
        time.sleep(max(0.0, min(next_at, end) - time.monotonic()))
        if next_at > end:
            break
        faults.inject()
        say(
            f"{faults.log[-1]}; {len(book.jobs)} jobs, {len(book.handoffs)} hand-offs, "
            f"{len(book.violations)} violations {dict(book.unanswered)}"
        )
    faults.end()
    settle(site, clients, backups, outcome, say)
    services = open_services(site.settings)
    try:
        count = Count(services, book)
        count.run()
    finally:
        services.close()
    outcome.faults, outcome.network, outcome.backups = faults.counts, proxy.counts, backups.counts
    outcome.requests, outcome.figures = book.requests.total(), count.figures
    outcome.job_errors = count.errors
    outcome.wrong = [*book.violations, *count.wrong, *read_logs([site.serve_log])]


def settle(site: Site, clients: list[Client], backups: Backups, outcome: Outcome, say: Any) -> None:
    """Let everything that has begun end."""
    started = time.monotonic()
    wait_for_answer(site, START_TIMEOUT)
    for client in clients:
        if isinstance(client, Deidentifier):
            client.may_abandon = False  # a lease takes two minutes to expire
    others = [each for each in clients if not isinstance(each, Deidentifier)]
    for each in others:
        each.leaving.set()
    for each in others:
        each.join(SETTLE_TIMEOUT)
    services = open_services(site.settings)
    try:
        wait_until_ended(services, SETTLE_TIMEOUT, say)
    finally:
        services.close()
    outcome.settled_after = round(time.monotonic() - started, 1)
    for each in clients:
        each.leaving.set()
        each.join(60)
        each.giving_up.set()
    backups.finish()


def wait_until_ended(services: Services, seconds: float, say: Any) -> None:
    """Wait until every job has ended, and every hand-off, whose lease may have to expire first."""
    end = time.monotonic() + seconds + LEASE.total_seconds()
    while True:
        with services.sessionmaker() as session:
            n_jobs = session.scalar(select(func.count()).where(Job.status.not_in(FINAL))) or 0
            unfinished = Handoff.status.in_(("open", "claimed"))
            n_handoffs = session.scalar(select(func.count()).where(unfinished)) or 0
        if not n_jobs and not n_handoffs:
            return
        if time.monotonic() > end:
            return  # the count reports what has not ended
        say(f"settling: {n_jobs} jobs and {n_handoffs} hand-offs have not ended")
        time.sleep(3)


def print_outcome(outcome: Outcome) -> None:
    print(f"seed {outcome.seed}, {outcome.minutes:g} minutes, {outcome.n_faults} faults")
    for title, counts in (
        ("faults", outcome.faults),
        ("connections", outcome.network),
        ("backups", outcome.backups),
        ("errors of jobs", outcome.job_errors),
        ("found", outcome.figures),
    ):
        print(f"{title}:")
        for name, n in sorted(counts.items()) if title != "found" else counts.items():
            print(f"  {n:6} {name}")
    print(
        f"{outcome.requests} requests; settled {outcome.settled_after:.0f} s after the last fault"
    )
    for each in outcome.left_out:
        print(f"left out: {each}")
    for each in outcome.wrong:
        print(f"WRONG: {each}")
    print("everything agrees" if not outcome.wrong else f"{len(outcome.wrong)} things do not agree")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1, help="chooses faults, their order and times")
    parser.add_argument("--every", type=float, default=9.0, help="seconds between faults")
    parser.add_argument("--json", type=Path, help="file for the outcome")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end all processes that were started
    outcome = attack(
        arguments.minutes, arguments.seed, arguments.every, lambda line: print(line, flush=True)
    )
    print_outcome(outcome)
    if arguments.json:
        arguments.json.write_text(json.dumps(outcome.as_json(), indent=1))
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    threading.excepthook = lambda args: sys.__excepthook__(
        args.exc_type, args.exc_value or Exception(), args.exc_traceback
    )
    sys.exit(main())
