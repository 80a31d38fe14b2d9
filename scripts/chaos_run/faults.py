"""The faults. The seed chooses which one, when and for how long."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import psycopg

from scripts.chaos_run.backups import Backups
from scripts.chaos_run.proxy import Proxy
from scripts.chaos_run.site import Site, SmallDisk
from service.database import embedded
from service.database.engine import conninfo

OFFSETS = (-3600, -300, -45, 0, 0, 45, 300, 3600)  # s, of clocks
NEARLY_FULL = 700 * 2**20  # bytes left: fewer than uploads need, enough for jobs


class Faults:
    """Injects one fault after another."""

    def __init__(
        self, site: Site, disk: SmallDisk, proxy: Proxy, backups: Backups, seed: int
    ) -> None:
        self._site, self._disk, self._proxy, self._backups = site, disk, proxy, backups
        self._random = random.Random(f"faults {seed}")
        self._timers: list[threading.Timer] = []
        self.counts: Counter[str] = Counter()
        self.log: list[str] = []
        self._started = time.monotonic()
        self._kinds: dict[Callable[[], str | None], float] = {
            self.kill_api: 4,
            self.kill_worker: 4,
            self.kill_engine: 4,
            self.kill_postgres: 4,
            self.kill_serve: 3,
            self.cut_power: 2,
            self.freeze_worker: 2,
            self.cut_database_connections: 3,
            self.cut_connections: 3,
            self.lose_answers: 3,
            self.cut_network: 2,
            self.kill_backup: 2,
        }
        if disk.is_mounted:
            self._kinds |= {self.fill_disk: 2, self.nearly_fill_disk: 2}
        if site.clock.can_move:
            self._kinds |= {self.set_clock: 3, self.set_other_clock: 2}
        self.left_out = [] if disk.is_mounted else ["full disk (needs root)"]
        self.left_out += [] if site.clock.can_move else ["clock jumps (needs a C compiler)"]

    def inject(self) -> None:
        """Inject one fault; if it has nothing to act on, try another."""
        while True:
            kind = self._random.choices(list(self._kinds), list(self._kinds.values()))[0]
            what = kind()
            if what is not None:
                break
        name = kind.__name__.replace("_", " ")
        self.counts[name] += 1
        self.log.append(f"{time.monotonic() - self._started:7.1f} {name} {what}".rstrip())

    def end(self) -> None:
        """End all faults and set the clocks right."""
        for timer in self._timers:
            timer.cancel()
        for pids in self._site.pids().values():
            self._signal(pids, signal.SIGCONT)
        self._disk.empty()
        self._site.clock.jump_to(0)
        self._site.other_clock.jump_to(0)
        self._proxy.losing = self._proxy.down = False
        self._proxy.calm = True

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()
        self._timers = [each for each in self._timers if each.is_alive()] + [timer]

    def _signal(self, pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _kill(self, name: str) -> str | None:
        pids = self._site.pids().get(name)
        if not pids:
            return None
        if name == "postgres":
            pids = [min(pids)]  # the server itself; its children end with it
        pid = self._random.choice(sorted(pids))
        self._signal([pid], signal.SIGKILL)
        return ""

    def kill_api(self) -> str | None:
        return self._kill("api")

    def kill_worker(self) -> str | None:
        return self._kill("worker")

    def kill_engine(self) -> str | None:
        return self._kill("engine")

    def kill_postgres(self) -> str | None:
        return self._kill("postgres")

    def kill_serve(self) -> str | None:
        return self._kill("serve")

    def cut_power(self) -> str | None:
        """Kill everything at once, as far as one process can."""
        for pids in self._site.pids().values():
            self._signal(pids, signal.SIGKILL)
        return ""

    def freeze_worker(self) -> str | None:
        pids = self._site.pids()
        workers = pids.get("worker")
        if not workers:
            return None
        pid, seconds = self._random.choice(sorted(workers)), self._random.uniform(3, 45)
        self._signal([pid], signal.SIGSTOP)
        self._later(seconds, lambda: self._signal([pid], signal.SIGCONT))
        return f"for {seconds:.0f} s"

    def cut_database_connections(self) -> str | None:
        """End some or all of the database's connections, as a network or an administrator may."""
        url = embedded.url(self._site.settings.database)
        share = self._random.choice((0.3, 1.0))
        query = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> "
            "pg_backend_pid() AND backend_type = 'client backend' AND random() < %s"
        )
        try:
            with psycopg.connect(conninfo(url), autocommit=True, connect_timeout=3) as connection:
                row = connection.execute(query, [share]).fetchone()
        except psycopg.Error:
            return None
        return f"({row[0] if row else 0})"

    def cut_connections(self) -> str | None:
        n_cut = self._proxy.cut_all()
        return f"({n_cut})" if n_cut else None

    def lose_answers(self) -> str | None:
        seconds = self._random.uniform(1, 5)
        self._proxy.losing = True
        self._later(seconds, lambda: setattr(self._proxy, "losing", False))
        return f"for {seconds:.0f} s"

    def cut_network(self) -> str | None:
        seconds = self._random.uniform(1, 8)
        self._proxy.down = True
        self._proxy.cut_all()
        self._later(seconds, lambda: setattr(self._proxy, "down", False))
        return f"for {seconds:.0f} s"

    def kill_backup(self) -> str | None:
        return self._backups.kill(self._random.uniform(0.1, 2.5))

    def fill_disk(self) -> str | None:
        return self._fill(0)

    def nearly_fill_disk(self) -> str | None:
        return self._fill(NEARLY_FULL)

    def _fill(self, leave: int) -> str:
        seconds = self._random.uniform(4, 14)
        self._disk.empty()
        self._disk.fill(leave=leave)
        self._later(seconds, self._disk.empty)
        return f"for {seconds:.0f} s"

    def set_clock(self) -> str | None:
        self._site.clock.jump_to(self._random.choice(OFFSETS))
        return f"to {self._site.clock.offset:+d} s"

    def set_other_clock(self) -> str | None:
        self._site.other_clock.jump_to(self._random.choice(OFFSETS))
        return f"to {self._site.other_clock.offset:+d} s"
