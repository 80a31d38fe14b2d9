"""The audit trail against somebody who changes it: every change is found, here and offline."""

import json
import runpy
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service import audit_chain
from service.audit_chain import FIRST, Head, check, hash_content
from service.commands.main import app
from service.domain import audit, audit_heads
from service.services import Services
from service.settings import Settings

Trail = list[dict[str, Any]]


def chain(entries: Trail) -> Trail:
    """The entries as a chain of their own, as somebody would forge it."""
    previous, made = FIRST, deepcopy(entries)
    for number, entry in enumerate(made, 1):
        entry |= {"position": number, "previous": previous}
        entry["hash"] = previous = hash_content(entry)
    return made


@pytest.fixture
def trail() -> Trail:
    return chain([entry("recording.played", n) for n in range(6)])


def entry(action: str, n: int = 0, **detail: Any) -> dict[str, Any]:
    fields = dict.fromkeys(("study", "token", "role", "reason"))
    return {**fields, "at": f"2031-01-0{n + 1}", "action": action, "objects": {}, "detail": detail}


def head_of(trail: Trail) -> Head:
    return Head(trail[-1]["position"], trail[-1]["hash"])


def codes(trail: Trail, *heads: Head) -> list[str]:
    return [finding.code for finding in check(trail, heads).findings]


def test_a_whole_trail_has_no_finding(trail: Trail) -> None:
    checked = check(trail, [head_of(trail), head_of(trail[:3])])

    assert (checked.findings, checked.notes, checked.entries) == ((), (), 6)
    assert checked.head == head_of(trail)


@pytest.mark.parametrize("field", ["at", "action", "token", "role", "objects", "detail", "reason"])
def test_an_edited_entry_is_found(trail: Trail, field: str) -> None:
    trail[2][field] = "changed"

    (finding,) = check(trail).findings
    assert (finding.code, finding.position) == ("changed", 3)


def test_an_entry_that_is_edited_and_hashed_again_is_found(trail: Trail) -> None:
    trail[2]["role"] = "owner"
    trail[2]["hash"] = hash_content(trail[2])

    assert codes(trail) == ["broken"]


def test_a_removed_entry_is_found(trail: Trail) -> None:
    del trail[2]

    assert codes(trail) == ["missing"]


def test_entries_in_another_order_are_found(trail: Trail) -> None:
    trail[1], trail[2] = trail[2], trail[1]

    assert codes(trail) == ["missing", "order", "missing"]


def test_a_cut_tail_is_found_only_with_an_earlier_head(trail: Trail) -> None:
    assert codes(trail[:4]) == []
    assert codes(trail[:4], head_of(trail)) == ["cut"]


def test_a_recomputed_trail_is_found_only_with_an_earlier_head(trail: Trail) -> None:
    forged = chain([each for each in trail if each["at"] != "2031-01-03"])

    assert codes(forged) == []
    assert codes(forged, head_of(trail)) == ["cut"]
    longer = chain([*forged, entry("recording.played", 7), entry("recording.played", 8)])
    assert codes(longer, head_of(trail)) == ["replaced"]
    assert codes(longer, head_of(trail[:2])) == []  # what it names is still there


def test_an_emptied_trail_is_found_with_a_head(trail: Trail) -> None:
    assert codes([], head_of(trail)) == ["cut"]


def test_a_restored_backup_is_told_and_explains_what_it_has_lost(trail: Trail) -> None:
    restored = entry("backup.restored", 4, lost_from=5, lost_until=6)
    now = chain([*trail[:4], restored, entry("recording.played", 5)])

    checked = check(now, [head_of(trail)])
    assert checked.findings == ()
    assert "Entries 5 to 6 of an earlier trail are lost" in checked.notes[0]
    older = Head(3, "0" * 64)
    assert codes(now, older) == ["replaced"]  # a restore explains nothing before it


# --- offline --------------------------------------------------------------------------------------


def save(path: Path, trail: Trail) -> Path:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in trail))
    return path


def test_the_check_needs_only_the_standard_library(trail: Trail, tmp_path: Path) -> None:
    file = save(tmp_path / "trail.jsonl", trail)
    heads = tmp_path / "heads.jsonl"
    heads.write_text(json.dumps({"position": 6, "hash": trail[-1]["hash"], "at": None}) + "\n")
    alone = [sys.executable, "-I", "-S", audit_chain.__file__, str(file), "--heads", str(heads)]

    whole = subprocess.run(alone, capture_output=True, text=True, check=False)
    assert (whole.returncode, whole.stdout.split(".")[0]) == (0, "The chain is whole: 6 entries")
    save(file, trail[:4])
    cut = subprocess.run(alone, capture_output=True, text=True, check=False)
    assert cut.returncode == 1
    assert "The trail ends at entry 4" in cut.stdout


def test_the_command_checks_a_file_without_the_service(trail: Trail, tmp_path: Path) -> None:
    file = save(tmp_path / "trail.jsonl", trail)
    run = ["audit", "--trail", str(file), "--head", str(head_of(trail))]

    assert CliRunner().invoke(app, run).exit_code == 0
    save(file, trail[:4])
    found = CliRunner().invoke(app, [*run, "--json"])
    assert found.exit_code == 1
    assert json.loads(found.stdout)["findings"][0]["code"] == "cut"
    file.write_text("no trail\n")
    assert CliRunner().invoke(app, run).exit_code == 1
    assert CliRunner().invoke(app, ["audit", "--trail", str(tmp_path / "none")]).exit_code == 2
    assert runpy.run_path(audit_chain.__file__)["main"]


# --- heads outside the database -------------------------------------------------------------------


def add(services: Services) -> None:
    audit.record_now(services, None, "participant.created", None, {})


def test_the_last_head_of_each_day_is_kept_among_the_keys(services: Services) -> None:
    for _ in range(3):
        add(services)
        audit_heads.record_head(services)
    (head,) = audit_heads.read_recorded(services.settings)
    with services.sessionmaker() as session:
        assert str(audit.read_head(session)) == str(head)
    earlier = Head(head.position, head.hash, "2030-01-01T00:00:00+00:00")
    audit_heads._write(services.settings, [earlier])
    add(services)
    audit_heads.record_head(services)
    assert len(audit_heads.read_recorded(services.settings)) == 2
    assert services.settings.audit_heads.stat().st_mode & 0o077 == 0


def test_a_head_that_the_trail_has_lost_is_kept_as_evidence(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    add(services)
    audit_heads.record_head(services)
    (known,) = audit_heads.read_recorded(services.settings)
    lost = Head(known.position + 1000, "ab" * 32, known.at)
    audit_heads._write(services.settings, [lost])
    add(services)
    audit_heads.record_head(services)

    assert "is not the one recorded outside the database" in caplog.text
    assert str(audit_heads.read_recorded(services.settings)[0]) == str(lost)
    assert [each.code for each in audit_heads.verify(services).findings] == ["cut"]


# --- sending --------------------------------------------------------------------------------------


class MailHandler(socketserver.StreamRequestHandler):
    """As much of SMTP as one message takes."""

    def handle(self) -> None:
        received: list[str] = self.server.received  # type: ignore[attr-defined]
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            command = line[:4].upper()
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while (line := self.rfile.readline()) != b".\r\n":
                    received.append(line.decode())
            elif command == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 ok\r\n")


@pytest.fixture
def mail_server() -> Iterator[Any]:
    server = socketserver.TCPServer(("127.0.0.1", 0), MailHandler)
    server.received = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def with_mail(services: Services, port: int) -> Services:
    settings = services.settings.model_copy(
        update={
            "audit_mail_to": "data-officer@example.org",
            "audit_mail_host": "127.0.0.1",
            "audit_mail_port": port,
        }
    )
    return Services(settings, services.engine, services.sessionmaker, services.vault)


def test_the_head_is_mailed_once_a_day(services: Services, mail_server: Any) -> None:
    add(services)
    mailing = with_mail(services, mail_server.server_address[1])

    assert audit_heads.send_daily(mailing, date(2031, 1, 7))
    assert audit_heads.send_daily(mailing, date(2031, 1, 7))
    text = "".join(mail_server.received)
    with services.sessionmaker() as session:
        head = str(audit.read_head(session))
    assert text.count("Subject:") == 1
    assert head in text.replace("=\r\n", "").replace("=\n", "")
    assert audit_heads.send_daily(mailing, date(2031, 1, 8))
    assert "".join(mail_server.received).count("Subject:") == 2


def test_a_head_that_cannot_be_mailed_is_tried_again(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    add(services)
    mailing = with_mail(services, 9)

    assert not audit_heads.send_daily(mailing, date(2031, 1, 7))
    assert "its head could not be sent: ConnectionRefusedError" in caplog.text
    assert "data-officer" not in caplog.text


def test_the_head_is_sent_to_an_address(services: Services) -> None:
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.handle_request, daemon=True).start()
    settings: Settings = services.settings.model_copy(
        update={"audit_head_url": f"http://127.0.0.1:{server.server_port}/"}
    )
    head = Head(7, "ab" * 32, "2031-01-07T00:00:00+00:00")
    audit_heads.send_head(settings, head)
    server.server_close()

    assert received == [{"type": "audit.head", "position": 7, "hash": "ab" * 32, "at": head.at}]
