"""What the certificate of a withdrawal says, from the results of its steps."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session as DbSession

from service.database.tables import (
    Study,
)
from service.domain.certificates import (
    Check,
    Item,
    Statement,
    describe_backups,
)
from service.domain.withdrawal_plan import (
    Person,
    about,
    count_consents,
    find_units,
    passed_on,
)
from service.domain.withdrawal_steps import Work


def make_statement(work: Work, session: DbSession) -> Statement:
    row, done = work.row, work.done
    study = session.get_one(Study, row.study_id)
    person = work.person(session)
    ids = {*done.get("about", []), *about(session, person, find_units(session, person))}
    statement = Statement(
        kind="withdrawal",
        study_id=row.study_id,
        subject=row.code,
        scope=row.scope,
        requested_at=row.requested_at,
        requested_by=row.role,
        reason=row.reason,
        removed=tuple(
            Item(what, each["n"], tuple(each["ids"]))
            for what, each in done.get("removed", {}).items()
            if each["n"]
        ),
        replaced=tuple(_replaced_items(done)),
        kept=tuple(_kept_items(work, session, person)),
        not_removed=tuple(_left_items(done)),
        checks=tuple(_checks(work)),
        passed_on=tuple(passed_on(session, study, ids)),
        backups=()
        if row.scope == "participation"
        else (*describe_backups(work.services.settings, datetime.now(UTC)), *_group_backups(done)),
    )
    return statement


def _replaced_items(done: Mapping[str, Any]) -> Iterator[Item]:
    for each in done.get("replaced", []):
        yield Item(
            "group_recording",
            len(each["recordings"]),
            tuple(old for old, _ in each["recordings"]),
            f"{each['name']}: {each['n_spans']} passages, {each['silent']:g} s in all, are silent "
            "in the copy that stands in its place. The original was destroyed.",
        )
        yield Item(
            "group_transcript",
            len(each["transcripts"]),
            tuple(old for old, _ in each["transcripts"]),
            f"{each['name']}: the participant's words are not in the new transcript; those of "
            "others, and their corrections, stay. Earlier versions were destroyed.",
        )
    made = [id for id in done.get("reissued", {}).values() if "-" in id]
    if made:
        yield Item("release", len(made), tuple(made), "Made again without the participant.")


def _kept_items(work: Work, session: DbSession, person: Person) -> Iterator[Item]:
    done = work.done
    n_consents = count_consents(session, person)
    if n_consents:
        yield Item("consent_record", n_consents, (), "As evidence that consent was given.")
    if work.row.scope == "participation":
        units = [unit.name for unit in find_units(session, person)]
        yield Item("session", len(units), tuple(units), "Recorded data stays, by this scope.")
        return
    kept = [*done.get("kept_releases", [])]
    for each in done.get("replaced", []) if work.keeps_releases else ():
        kept += each["releases"]
    if kept:
        yield Item("release", len(kept), tuple(kept), "De-identified, kept by this scope.")
    yield Item("code", 1, (work.row.code,), "Never used again; in the audit trail and in releases.")
    if mentions := done.get("mentions", []):
        places = {each["transcript"] for each in mentions}
        yield Item(
            "mention_by_others",
            len(mentions),
            tuple(sorted(places)),
            "What others said about the participant: open for a reviewer in these transcripts.",
        )
    waiting = [code for code in done.get("reissued", {}).values() if "-" not in code]
    if waiting:
        reasons = ", ".join(sorted({code.replace("_", " ") for code in waiting}))
        yield Item(
            "release_not_made_again", len(waiting), (), f"Revoked, not made again yet: {reasons}."
        )


def _left_items(done: Mapping[str, Any]) -> Iterator[Item]:
    verified = done.get("verified", {})
    for name, what, note in (
        ("opened", "key", "It can still be opened."),
        ("found", "file", "It is still in the vault."),
        ("heard", "recording", "The participant's passages are not silent."),
        ("spoken", "transcript", "It still has words of the participant."),
    ):
        if ids := verified.get(name):
            yield Item(what, len(ids), tuple(ids), note)
    if ids := done.get("search", {}).get("in_releases"):
        yield Item("release", len(ids), tuple(ids), "It still has the participant's name.")
    if ids := done.get("search", {}).get("unlisted"):
        yield Item(
            "transcript", len(ids), tuple(ids), "The name stands where no reviewer was asked."
        )


def _checks(work: Work) -> Iterator[Check]:
    if work.row.scope == "participation":
        return
    done = work.done
    verified, search = done["verified"], done.get("search", {"is_done": False})
    n_keys = sum(map(len, done.get("keys", {}).values()))
    n_files = sum(map(len, done.get("files", {}).values()))
    yield _check(
        f"{plural(n_keys, 'key')} of what was removed: none can be opened.", verified["opened"]
    )
    yield _check(
        f"{plural(n_files, 'file')} of what was removed: none is in the vault.", verified["found"]
    )
    if verified["has_groups"]:
        yield _check(
            "Each passage in which the participant spoke in a group is digital silence.",
            verified["heard"],
        )
        yield _check("No transcript has words of the participant.", verified["spoken"])
    if search["is_done"]:
        yield _check(
            f"{plural(search['n_transcripts'], 'transcript')} of the study searched for the "
            "participant's names: each place is on a reviewer's list.",
            search["unlisted"],
        )
        yield _check(
            f"{plural(search['n_releases'], 'release')} of the study searched for the "
            "participant's names: none has them.",
            search["in_releases"],
        )
    elif "names" in done.get("removed", {}):
        yield Check("The study was searched for the participant's names.", "not_checked")


def plural(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _check(what: str, failures: Sequence[str]) -> Check:
    return Check(what, "failed" if failures else "passed", tuple(failures))


def _group_backups(done: Mapping[str, Any]) -> Iterator[str]:
    names = [each["name"] for each in done.get("replaced", [])]
    if names:
        yield (
            f"Backups from before this withdrawal cannot restore {', '.join(names)}, for the other "
            "members either: a new backup should be made at once."
        )
