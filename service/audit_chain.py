"""The chain of the audit trail, and the check of a copy of it.

This file needs nothing but Python's standard library, so that a trail can be checked years later,
on a machine without Fieldscribe:

    python audit_chain.py trail.jsonl --head 1207:9f86d0… --heads audit-heads.jsonl

A trail is JSON lines, an entry each. The hash of an entry is the SHA-256 of the entry without its
hash, as JSON with sorted keys, no spaces and only ASCII characters. It covers `previous`, the hash
of the entry before. A head is the position and the hash of the newest entry at some time: whoever
has an earlier head finds out if the trail was cut, replaced or rewritten since.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIRST = bytes(32).hex()  # the hash before the first entry
RESTORED = "backup.restored"
MAX_FINDINGS = 20


@dataclass(frozen=True)
class Head:
    """The newest entry at some time: `at`, ISO 8601, is when it was recorded, if that is known."""

    position: int
    hash: str
    at: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Head":
        """
        Raises:
            ValueError: the text is not `POSITION:HASH`.
        """
        position, _, hash = text.strip().partition(":")
        if len(hash) != 64 or int(hash, 16) < 0:
            raise ValueError("a head is POSITION:HASH")
        return cls(int(position), hash.lower())

    def __str__(self) -> str:
        return f"{self.position}:{self.hash}"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a trail. `position`: of the first entry that it concerns."""

    code: str
    position: int
    message: str


@dataclass(frozen=True)
class Checked:
    """The outcome of a check.

    `findings`: empty if the trail is whole. `notes`: gaps that the trail itself explains, by an
    entry about the restore of an older backup.
    """

    entries: int
    head: Head | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def hash_content(content: Mapping[str, Any]) -> str:
    """The hash of an entry; its own `hash`, if it is there, does not count."""
    own = {name: value for name, value in content.items() if name != "hash"}
    written = json.dumps(own, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(written.encode()).hexdigest()


def check(entries: Iterable[Mapping[str, Any]], heads: Iterable[Head] = ()) -> Checked:
    """Check every entry, and that the trail still contains the entries that earlier heads name.

    Args:
        entries: in the order of the trail.
    """
    known = list(heads)
    wanted = {head.position for head in known}
    hashes: dict[int, str] = {}
    restores: list[tuple[int, int, int]] = []  # position, and the entries that were lost
    findings: list[Finding] = []
    number, last, previous = 0, 0, FIRST
    for entry in entries:
        number += 1
        position, hash = entry.get("position"), entry.get("hash")
        if not isinstance(position, int) or not isinstance(hash, str):
            findings.append(Finding("unreadable", last + 1, f"Line {number} is not an entry."))
            break
        findings += _compare(entry, position, hash, last, previous)
        if position in wanted:
            hashes[position] = hash
        if entry.get("action") == RESTORED:
            detail = entry.get("detail") or {}
            first, until = detail.get("lost_from"), detail.get("lost_until")
            if isinstance(first, int) and isinstance(until, int):
                restores.append((position, first, until))
        last, previous = position, hash
        if len(findings) >= MAX_FINDINGS:
            break
    notes = []
    if len(findings) < MAX_FINDINGS:
        for head in known:
            found, note = _compare_head(head, hashes.get(head.position), last, restores)
            findings += [] if found is None else [found]
            notes += [] if note is None else [note]
    newest = None if last == 0 else Head(last, previous)
    return Checked(number, newest, tuple(findings), tuple(dict.fromkeys(notes)))


def _compare(
    entry: Mapping[str, Any], position: int, hash: str, last: int, previous: str
) -> Iterator[Finding]:
    if hash_content(entry) != hash:
        yield Finding("changed", position, f"Entry {position} was changed.")
    if position > last + 1:
        missing = f"{last + 1}" if position == last + 2 else f"{last + 1} to {position - 1}"
        yield Finding("missing", last + 1, f"Entries are missing: {missing}.")
    elif position <= last:
        yield Finding("order", position, f"Entry {position} is not in its place.")
    elif entry.get("previous") != previous:
        yield Finding(
            "broken",
            position,
            f"Entry {position} does not follow the entry before it: one of the two was replaced.",
        )


def _compare_head(
    head: Head, hash: str | None, last: int, restores: Sequence[tuple[int, int, int]]
) -> tuple[Finding | None, str | None]:
    """
    Returns:
        What is wrong, or what explains it.
    """
    if hash == head.hash:
        return None, None
    for position, first, until in restores:
        if first <= head.position <= until:
            return None, (
                f"Entries {first} to {until} of an earlier trail are lost: an older backup was "
                f"restored, as entry {position} says."
            )
    when = "" if head.at is None else f" of {head.at}"
    if hash is None and head.position > last:
        return Finding(
            "cut",
            last + 1,
            f"The trail ends at entry {last}, but the head{when} names entry {head.position}: the "
            "end was removed, or an older backup was restored.",
        ), None
    return Finding(
        "replaced",
        head.position,
        f"Entry {head.position} is not the one that the head{when} names: the trail was replaced "
        "or rewritten.",
    ), None


def read_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The entries of a file. A line that is not JSON becomes one that no check accepts."""
    for line in lines:
        if line.strip():
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            yield entry if isinstance(entry, dict) else {}


def read_heads(lines: Iterable[str]) -> Iterator[Head]:
    """The heads of a file: JSON lines, as the service writes them, or lines `POSITION:HASH`.

    Raises:
        ValueError
    """
    for line in filter(None, map(str.strip, lines)):
        if line.startswith("{"):
            head = json.loads(line)
            yield Head(int(head["position"]), str(head["hash"]), head.get("at"))
        else:
            yield Head.parse(line)


def describe(checked: Checked) -> Iterator[str]:
    """What a check has found, in plain words."""
    for finding in checked.findings:
        yield finding.message
    yield from checked.notes
    if not checked.findings:
        end = "" if checked.head is None else f" Head: {checked.head}"
        yield f"The chain is whole: {checked.entries} entries.{end}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Check an exported audit trail of Fieldscribe.")
    parser.add_argument("trail", help="file of JSON lines, from `fieldscribe audit --export`")
    parser.add_argument("--head", action="append", default=[], metavar="POSITION:HASH")
    parser.add_argument("--heads", action="append", default=[], metavar="FILE")
    given = parser.parse_args()
    try:
        heads = [Head.parse(text) for text in given.head]
        for path in given.heads:
            with open(path, encoding="utf-8") as file:
                heads += read_heads(file)
        with open(given.trail, encoding="utf-8") as file:
            checked = check(read_lines(file), heads)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for line in describe(checked):
        sys.stdout.write(f"{line}\n")
    return 1 if checked.findings else 0


if __name__ == "__main__":
    sys.exit(main())
