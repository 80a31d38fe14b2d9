"""Corrections of transcripts: each is an encrypted entry of a journal, and can be undone.

A correction of a segment names the version of the transcript that it is based on. If the segment
has changed since then, the correction is refused with both texts and, where possible, their merge.

ServiceError
├── SegmentNotFound, UnknownSpeaker, BadCorrection, ImportDiffers
├── SegmentChanged, TranscriptChanged
└── NothingToUndo, LaterChange
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from models import corrections
from models.corrections import (
    KEEP,
    Change,
    Choice,
    Replacement,
    change_from_json,
    change_to_json,
)
from models.importing import AnotherRecording, Turn, align_import
from models.retiming import merge_texts
from models.speaker_names import names_of
from models.transcript import Segment, SpeakerName, Transcript
from models.transcript_json import to_json
from service.database.tables import Correction, StoredTranscript
from service.domain import audit, results
from service.domain.callers import Caller
from service.domain.transcripts import (
    CORRECTION,
    SNAPSHOT,
    SNAPSHOT_EVERY,
    VersionNotFound,
    find_transcript,
    read_artefact,
    read_transcript,
)
from service.errors import ServiceError
from service.services import Services

MAX_SPEAKERS = 100

log = logging.getLogger(__name__)


class SegmentNotFound(ServiceError):
    """The transcript has no segment with this id."""

    code: ClassVar[str] = "segment_not_found"
    status: ClassVar[int] = 404


class UnknownSpeaker(ServiceError):
    """The transcript has no speaker with this label."""

    code: ClassVar[str] = "unknown_speaker"
    status: ClassVar[int] = 422


class BadCorrection(ServiceError):
    """The correction is impossible, for example a split within a word."""

    code: ClassVar[str] = "bad_correction"
    status: ClassVar[int] = 422


@dataclass(frozen=True)
class Conflict:
    """Two people's corrections of one segment.

    `merged`: both corrections together; None if they change the same words.
    """

    version: int
    base: str | None
    theirs: str | None
    yours: str | None
    merged: str | None


class SegmentChanged(ServiceError):
    """Somebody has changed the segment since the version that the correction is based on."""

    code: ClassVar[str] = "segment_changed"
    status: ClassVar[int] = 409

    def __init__(self, message: str, conflict: Conflict) -> None:
        super().__init__(message)
        self.conflict = conflict


class TranscriptChanged(ServiceError):
    """Somebody has changed the transcript since the version that the request is based on."""

    code: ClassVar[str] = "transcript_changed"
    status: ClassVar[int] = 409


class ImportDiffers(ServiceError):
    """Hardly any word of the imported text is in the transcript."""

    code: ClassVar[str] = "import_differs"
    status: ClassVar[int] = 422


class NothingToUndo(ServiceError):
    """You have not changed this transcript, or have undone all your changes."""

    code: ClassVar[str] = "nothing_to_undo"
    status: ClassVar[int] = 409


class LaterChange(ServiceError):
    """A later change of the same segments prevents undoing this one."""

    code: ClassVar[str] = "later_change"
    status: ClassVar[int] = 409


@dataclass(frozen=True)
class SegmentEdit:
    """What is to become of one segment. None as `text` leaves the text as it is."""

    id: str
    text: str | None = None
    speaker: Choice = KEEP
    checked_by: Choice = KEEP


@dataclass(frozen=True)
class Corrected:
    """The newest version, with the segments that the change made or removed."""

    transcript: Transcript
    segments: tuple[Segment, ...] = ()  # changed or new
    removed: tuple[str, ...] = ()  # ids


@dataclass(frozen=True)
class Imported:
    """The outcome of an import.

    `unmatched`: numbers of the turns that were placed between their neighbours. `removed`: segments
    that the text does not have. `conflicts`: segments that were not changed, because they had been
    corrected since the version that the text was made from.
    """

    corrected: Corrected
    matched: float
    unmatched: tuple[int, ...]
    removed: tuple[Segment, ...]
    conflicts: tuple[Segment, ...]
    labels: Mapping[str, str | None]


@dataclass(frozen=True)
class Editor:
    """One transcript, locked, and the person who changes it."""

    session: DbSession
    services: Services
    caller: Caller
    row: StoredTranscript
    current: Transcript
    packet_id: UUID | None = None

    @classmethod
    def open(
        cls,
        session: DbSession,
        services: Services,
        caller: Caller,
        transcript_id: UUID,
        packet_id: UUID | None = None,
    ) -> "Editor":
        """
        Args:
            packet_id: of the participant who proposed the changes.

        Raises:
            TranscriptNotFound
            Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
        """
        row = find_transcript(session, caller, transcript_id, lock=True)
        current = read_transcript(session, services, row)
        return cls(session, services, caller, row, current, packet_id)

    @property
    def new_id(self) -> str:
        """The id of a segment that the next version adds; version numbers are never reused."""
        return f"c{self.row.version + 1}.1"

    # --- changes of segments ----------------------------------------------------------------------

    def edit(
        self,
        segment_id: str,
        based_on: int,
        *,
        text: str | None,
        speaker: Choice,
        checked_by: Choice,
    ) -> Corrected:
        """
        Raises:
            SegmentNotFound, SegmentChanged, UnknownSpeaker, VersionNotFound, DiskFull
        """
        speaker = self.label(speaker)

        def make() -> Change:
            return corrections.edit(
                self.current, segment_id, text=text, speaker=speaker, checked_by=checked_by
            )

        if _text(self.current, segment_id) is not None and (change := make()).is_empty:
            return self.record(change)
        self._refuse_stale(segment_id, based_on, text)
        return self.record(self._attempt(make))

    def edit_many(
        self, edits: Sequence[SegmentEdit], based_on: int
    ) -> tuple[Corrected, tuple[str, ...]]:
        """Edit several segments as one change, such as by replacing a word everywhere.

        Returns:
            The change, and the ids of the segments that it leaves as they are, because they were
            changed or removed since the version that it is based on.

        Raises:
            UnknownSpeaker, VersionNotFound, DiskFull
        """
        changed = changes_since(self.session, self.row, based_on).segments
        known = {segment.id for segment in self.current.segments}
        fitting = [one for one in edits if one.id in known and one.id not in changed]
        changes = [
            corrections.edit(
                self.current,
                one.id,
                text=one.text,
                speaker=self.label(one.speaker),
                checked_by=one.checked_by,
            )
            for one in fitting
        ]
        made = self.record(corrections.edit_many(self.current, changes))
        fitted = {one.id for one in fitting}
        return made, tuple(one.id for one in edits if one.id not in fitted)

    def split(self, segment_id: str, based_on: int, at: int, speaker: Choice) -> Corrected:
        """
        Raises:
            SegmentNotFound, SegmentChanged, UnknownSpeaker, BadCorrection, VersionNotFound,
            DiskFull
        """
        self._refuse_stale(segment_id, based_on)
        speaker = self.label(speaker)
        return self.record(
            self._attempt(
                lambda: corrections.split(self.current, segment_id, at, self.new_id, speaker)
            )
        )

    def merge(self, segment_id: str, based_on: int, speaker: Choice) -> Corrected:
        """
        Raises:
            SegmentNotFound, SegmentChanged, UnknownSpeaker, BadCorrection, VersionNotFound,
            DiskFull
        """
        self._refuse_stale(segment_id, based_on)
        speaker = self.label(speaker)
        change = self._attempt(lambda: corrections.merge(self.current, segment_id, speaker))
        self._refuse_stale(change.segment_ids[0], based_on)
        return self.record(change)

    def insert(
        self,
        after_id: str | None,
        text: str,
        speaker: str | None,
        times: tuple[float, float] | None,
    ) -> Corrected:
        """
        Raises:
            SegmentNotFound, UnknownSpeaker, BadCorrection, DiskFull
        """
        label = self.label(speaker)
        assert label is not KEEP
        return self.record(
            self._attempt(
                lambda: corrections.insert(self.current, after_id, text, label, self.new_id, times)
            )
        )

    def delete(self, segment_id: str, based_on: int) -> Corrected:
        """
        Raises:
            SegmentNotFound, SegmentChanged, VersionNotFound, DiskFull
        """
        self._refuse_stale(segment_id, based_on)
        return self.record(self._attempt(lambda: corrections.delete(self.current, segment_id)))

    def label(self, speaker: Choice) -> Choice:
        """Return the label of a speaker, given by label or by the name that is shown.

        If there are two speakers, `SPEAKER_02` is a new one, whom diarisation has missed.

        Raises:
            UnknownSpeaker
        """
        known = self.current.speakers
        if speaker is KEEP or speaker is None or speaker in known:
            return speaker
        for label, name in names_of(known, self.current.names).items():
            if speaker == name:
                return label
        following = f"SPEAKER_{len(known):02d}"
        if speaker == following and len(known) < MAX_SPEAKERS:
            return speaker
        raise UnknownSpeaker(
            f"The transcript's speakers are {', '.join(known)}; {following} adds one"
        )

    def _refuse_stale(self, segment_id: str, based_on: int, yours: str | None = None) -> None:
        changed_in = self.session.scalar(
            select(func.max(Correction.version)).where(
                Correction.transcript_id == self.row.id,
                Correction.version > based_on,
                Correction.segments.contains([segment_id]),
            )
        )
        if based_on > self.row.version:
            raise VersionNotFound(f"The newest version is {self.row.version}")
        if changed_in is None:
            return
        earlier = read_transcript(self.session, self.services, self.row, based_on)
        base, theirs = (_text(each, segment_id) for each in (earlier, self.current))
        merged = (
            None
            if base is None or theirs is None or yours is None
            else merge_texts(base, theirs, yours)
        )
        raise SegmentChanged(
            f"The segment has been changed since version {based_on}: compare the texts, then send "
            f"yours again for version {self.row.version}",
            Conflict(self.row.version, base, theirs, yours, merged),
        )

    def _attempt(self, make: Callable[[], Change]) -> Change:
        try:
            return make()
        except corrections.NoSuchSegment as error:
            raise SegmentNotFound(str(error)) from None
        except corrections.BadCorrection as error:
            raise BadCorrection(str(error)) from None

    def import_turns(self, turns: Sequence[Turn], based_on: int | None) -> Imported:
        """Import a text that was made or corrected elsewhere, as a new version.

        Args:
            based_on: the version that the text was made from; None: the newest. Segments that have
                been corrected since then are not changed.

        Raises:
            ImportDiffers, VersionNotFound, DiskFull
        """
        base = self.current
        if based_on is not None and based_on != self.row.version:
            base = read_transcript(self.session, self.services, self.row, based_on)
        try:
            found = align_import(base, turns, self.row.version + 1)
        except AnotherRecording:
            raise ImportDiffers(
                "Hardly any word of the text is in the transcript: is it from another session?"
            ) from None
        change, skipped = self._rebase(found.change, base)
        by_id = {segment.id: segment for segment in (*base.segments, *self.current.segments)}
        return Imported(
            self.record(change),
            found.matched,
            found.unmatched,
            tuple(by_id[id] for id in found.removed if id not in skipped),
            tuple(by_id[id] for id in skipped if id in by_id),
            found.labels,
        )

    def _rebase(self, change: Change, base: Transcript) -> tuple[Change, list[str]]:
        """Adapt a change of an earlier version to the newest one.

        Returns:
            The part that fits, and the ids of the segments that it does not fit.
        """
        if base is self.current:
            return change, []
        made, fitting, skipped = self.current, list[Replacement](), list[str]()
        for one in change.replacements:
            try:
                made = corrections.apply(made, Change(change.kind, (one,)))
                fitting.append(one)
            except corrections.ChangedSince:
                skipped += [segment.id for segment in one.before]
        now = self.current
        added = [
            s for s in (change.speakers[1] if change.speakers else ()) if s not in now.speakers
        ]
        names = {**(change.names[1] if change.names else {}), **now.names}
        rebased = Change(
            change.kind,
            tuple(fitting),
            (now.speakers, (*now.speakers, *added)) if added else None,
            (now.names, names) if names != dict(now.names) else None,
        )
        return rebased, skipped

    # --- names ------------------------------------------------------------------------------------

    def name_speakers(self, names: Mapping[str, SpeakerName]) -> Corrected:
        """Set the names of all speakers. Speakers that are missing lose theirs.

        Raises:
            UnknownSpeaker, DiskFull
        """
        if set(names) - set(self.current.speakers):
            labels = ", ".join(self.current.speakers)
            raise UnknownSpeaker(f"The transcript's speakers are {labels}")
        named = {label: name for label, name in names.items() if name != SpeakerName()}
        return self.record(corrections.name_speakers(self.current, named))

    # --- the journal ------------------------------------------------------------------------------

    def undo(self, version: int | None) -> Corrected:
        """Undo a change; undoing an undo makes the change again.

        Args:
            version: the version that the change made; None: the caller's last change that has not
                been undone.

        Raises:
            VersionNotFound, NothingToUndo, LaterChange, DiskFull
        """
        entries = list_versions(self.session, self.row)
        if version is None:
            version = _last_change(entries, self.caller)
        entry = next((each for each in entries if each.version == version), None)
        if entry is None:
            raise VersionNotFound(f"No change has made version {version} of this transcript")
        stored = read_artefact(self.services, self.row, CORRECTION, entry.artefact_id)
        try:
            return self.record(change_from_json(stored).invert("undo"), undoes=version)
        except corrections.ChangedSince:
            raise LaterChange(
                "The same segments were changed again later: undo that change first, or restore a "
                "version"
            ) from None

    def restore(self, version: int, based_on: int) -> Corrected:
        """Restore an earlier version of the transcript as a new version.

        Raises:
            VersionNotFound, TranscriptChanged, DiskFull
        """
        if based_on != self.row.version:
            raise TranscriptChanged(
                f"The transcript is at version {self.row.version} now: look at it first"
            )
        earlier = read_transcript(self.session, self.services, self.row, version)
        return self.record(corrections.restore(self.current, earlier))

    def record(self, change: Change, *, undoes: int | None = None) -> Corrected:
        """Store a change as the next version, unless it changes nothing.

        Raises:
            DiskFull
        """
        place = {"transcript": self.row.id}
        if change.is_empty:  # the answer has the segment's text nevertheless
            detail: dict[str, audit.Value] = {"version": self.row.version, "part": "segments"}
            study_id = self.row.study_id
            audit.record(
                self.session, self.caller, "transcript.read", study_id, place, detail=detail
            )
            return Corrected(self.current, _changed(self.current, change))
        made = corrections.apply(self.current, change)
        row = self.row
        snapshot = self._write(SNAPSHOT, to_json(made)) if self._needs_snapshot() else None
        self.session.add(
            Correction(
                transcript_id=row.id,
                version=made.version,
                kind=change.kind,
                segments=change.segment_ids,
                undoes=undoes,
                packet_id=self.packet_id,
                token_id=self.caller.token_id,
                artefact_id=self._write(CORRECTION, change_to_json(change)),
                snapshot_artefact_id=snapshot,
            )
        )
        row.version = made.version
        names = {label: made.names.get(label, SpeakerName()) for label in made.speakers}
        row.speakers = {
            label: {"role": name.role, "code": name.code} for label, name in names.items()
        }
        self.session.flush()
        audit.record(
            self.session,
            self.caller,
            "transcript.corrected",
            row.study_id,
            place,
            detail={"version": row.version, "kind": change.kind, "undoes": undoes},
        )
        log.info("transcript %s: version %d, %s", row.id, made.version, change.kind)
        return Corrected(made, _changed(made, change), _removed(made, change))

    def _write(self, kind: str, content: str) -> UUID:
        row = self.row
        return results.write(self.services, row.study_id, row.job_id, kind, content.encode())

    def _needs_snapshot(self) -> bool:
        last = self.session.scalar(
            select(func.max(Correction.version)).where(
                Correction.transcript_id == self.row.id,
                Correction.snapshot_artefact_id.is_not(None),
            )
        )
        return self.row.version + 1 - (last or self.row.first_version) >= SNAPSHOT_EVERY


def _text(transcript: Transcript, segment_id: str) -> str | None:
    return next((one.text for one in transcript.segments if one.id == segment_id), None)


def _changed(transcript: Transcript, change: Change) -> tuple[Segment, ...]:
    touched = {segment.id for one in change.replacements for segment in one.after}
    return tuple(segment for segment in transcript.segments if segment.id in touched)


def _removed(transcript: Transcript, change: Change) -> tuple[str, ...]:
    left = {segment.id for segment in transcript.segments}
    return tuple(id for id in change.segment_ids if id not in left)


def list_versions(session: DbSession, row: StoredTranscript) -> list[Correction]:
    """The changes of a transcript, oldest first."""
    query = select(Correction).where(Correction.transcript_id == row.id)
    return list(session.scalars(query.order_by(Correction.version)))


@dataclass(frozen=True)
class ChangesSince:
    """What has been changed since a version.

    `segments`: ids of those that were changed, added or removed. `renamed`: names of speakers may
    have changed, which every segment shows. `reordered`: segments may have been added or removed.
    """

    segments: tuple[str, ...]
    renamed: bool
    reordered: bool


def changes_since(session: DbSession, row: StoredTranscript, version: int) -> ChangesSince:
    """
    Raises:
        VersionNotFound
    """
    if not row.first_version <= version <= row.version:
        raise VersionNotFound(f"The newest version is {row.version}")
    query = select(Correction).where(
        Correction.transcript_id == row.id, Correction.version > version
    )
    entries = session.scalars(query.order_by(Correction.version)).all()
    ids = dict.fromkeys(id for entry in entries for id in entry.segments)
    renamed = any(not entry.segments or entry.kind in ("restore", "import") for entry in entries)
    in_place = ("text", "speaker", "check", "speakers")
    reordered = any(entry.kind not in in_place for entry in entries)
    return ChangesSince(tuple(ids), renamed, reordered)


def undone_versions(entries: Iterable[Correction]) -> set[int]:
    """The versions whose changes are undone. Undoing an undo makes the change again."""
    undoes = {entry.version: entry.undoes for entry in entries}
    undone: set[int] = set()

    def mark(version: int, is_undone: bool) -> None:
        (undone.add if is_undone else undone.discard)(version)
        if (target := undoes.get(version)) is not None:
            mark(target, not is_undone)

    for target in undoes.values():
        if target is not None:
            mark(target, True)
    return undone


def _last_change(entries: list[Correction], caller: Caller) -> int:
    """
    Raises:
        NothingToUndo
    """
    undone = undone_versions(entries)
    for entry in reversed(entries):
        is_own = entry.token_id == caller.token_id
        if is_own and entry.undoes is None and entry.version not in undone:
            return entry.version
    raise NothingToUndo("You have not changed this transcript, or have undone all your changes")
