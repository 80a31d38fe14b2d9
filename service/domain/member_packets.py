"""Member checking: texts that participants check behind a link, and what they propose.

A packet is encrypted with the key of the transcript's job, so that erasing the job erases it. The
participant's changes are proposals: a researcher accepts each, as a correction of the transcript
that names the packet, or declines it.

ServiceError
├── PacketNotFound
├── PacketUnusable
├── PacketNotPossible
└── ProposalNotFound
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.transcript import Segment, Transcript
from service.database import tables
from service.database.tables import MemberPacket, Participant, StoredTranscript, Study
from service.domain import audit, release_content, results
from service.domain.callers import Caller, hash_secret
from service.domain.consent import require_release
from service.domain.participants import ROLE
from service.domain.recordings import identified
from service.domain.transcripts import find_interview, find_transcript, read_transcript
from service.errors import ServiceError
from service.services import Services
from service.vault.errors import Erased

Wording = Literal["codes", "own_words"]
PACKET, ANSWER = "packet", "packet_answer"  # kinds of artefacts
MAX_DAYS = 90


class PacketNotFound(ServiceError):
    """There is no such packet, or it is not yours."""

    code: ClassVar[str] = "packet_not_found"
    status: ClassVar[int] = 404


class PacketUnusable(ServiceError):
    """The link of the packet is wrong, has expired or was revoked."""

    code: ClassVar[str] = "packet_unusable"
    status: ClassVar[int] = 404


class PacketNotPossible(ServiceError):
    """The participant cannot get this text."""

    code: ClassVar[str] = "packet_not_possible"
    status: ClassVar[int] = 409


class ProposalNotFound(ServiceError):
    """The participant has proposed no change of this segment, or it has been decided on."""

    code: ClassVar[str] = "proposal_not_found"
    status: ClassVar[int] = 404


@dataclass(frozen=True)
class Passage:
    """A segment as the participant reads it. `is_own`: they said it, and can change it."""

    segment: str
    speaker: str
    text: str
    is_own: bool


@dataclass(frozen=True)
class Content:
    session: str
    passages: tuple[Passage, ...]
    summary: str | None = None


@dataclass(frozen=True)
class Proposal:
    segment: str
    text: str


@dataclass(frozen=True)
class Answer:
    proposals: tuple[Proposal, ...]
    comment: str | None = None


# --- making ---------------------------------------------------------------------------------------


def create_packet(
    session: DbSession,
    services: Services,
    caller: Caller,
    participant: Participant,
    transcript_id: UUID,
    wording: Wording,
    *,
    days: int,
    summary: str | None = None,
) -> tuple[MemberPacket, str]:
    """
    Args:
        wording: `codes` as in a release, which needs a finished review; `own_words` as they were
            said, only for an interview, where nobody else takes part.
        days: until the link expires.
        summary: a text to check instead of the transcript.

    Returns:
        The packet, and the secret of its link, which is shown once.

    Raises:
        TranscriptNotFound, PacketNotPossible, ConsentMissing, ReviewNotReady, ReviewOpen, NamesLeft
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    row = find_transcript(session, caller, transcript_id, lock=True)
    interview = find_interview(session, row)
    _require_part(session, caller, participant, row, interview)
    assert interview is not None
    if summary is None:
        content = _passages(session, services, caller, participant, row, interview, wording)
    else:
        content = Content(interview.code, (), summary)
    study_id, job_id = row.study_id, row.job_id
    secret = secrets.token_urlsafe(32)
    written = json.dumps(asdict(content)).encode()
    packet = MemberPacket(
        id=uuid4(),
        study_id=study_id,
        participant_id=participant.id,
        transcript_id=row.id,
        transcript_version=row.version,
        kind="transcript" if summary is None else "summary",
        wording=wording,
        artefact_id=results.write(services, study_id, job_id, PACKET, written),
        hash=hash_secret(secret),
        expires_at=datetime.now(UTC) + timedelta(days=days),
        token_id=caller.token_id,
    )
    session.add(packet)
    session.flush()
    _record(session, caller, "packet.created", packet, participant)
    return packet, secret


def _require_part(
    session: DbSession,
    caller: Caller,
    participant: Participant,
    row: StoredTranscript,
    interview: tables.Session | None,
) -> None:
    """
    Raises:
        PacketNotPossible, ConsentMissing
    """
    if participant.study_id != row.study_id or interview is None:
        raise PacketNotPossible("The transcript is not of a session of the participant's study")
    if participant.withdrawn_at is not None or participant.erased_at is not None:
        raise PacketNotPossible(f"{participant.code} has withdrawn")
    if participant.code not in _codes(interview):
        raise PacketNotPossible(f"{participant.code} is not on the roster of {interview.code}")
    require_release(
        session,
        caller,
        session.get_one(Study, row.study_id),
        interview,
        "member_checking",
        only=participant.code,
    )


def _codes(interview: tables.Session) -> list[str]:
    return [person["code"] for person in interview.roster if person["role"] == ROLE]


def _passages(
    session: DbSession,
    services: Services,
    caller: Caller,
    participant: Participant,
    row: StoredTranscript,
    interview: tables.Session,
    wording: Wording,
) -> Content:
    is_group = len(_codes(interview)) > 1
    if wording == "own_words" and is_group:
        raise PacketNotPossible(
            f"Others took part in {interview.code}: choose codes, so that nobody else is named"
        )
    said = read_transcript(session, services, row)
    labels = {label for label, name in said.names.items() if name.code == participant.code}
    own = {segment.id for segment in said.segments if segment.speaker in labels}
    if not own:
        raise PacketNotPossible(f"Say first who speaks in {interview.code}: name its speakers")
    if wording == "own_words":
        shown = said
    else:
        prepared = release_content.prepare(session, services, caller, row, 0, "member_checking")
        shown = prepared.transcript  # with the same segments
    return Content(interview.code, tuple(_choose(shown, own, is_group)))


def _choose(transcript: Transcript, own: set[str], is_group: bool) -> list[Passage]:
    """The whole interview; of a group the participant's turns, each with what came before it.

    Args:
        own: ids of the participant's segments.
    """
    chosen: list[Segment] = []
    for i, segment in enumerate(transcript.segments):
        following = transcript.segments[i + 1] if i + 1 < len(transcript.segments) else None
        leads_to_own = following is not None and following.id in own
        if not is_group or segment.id in own or leads_to_own:
            chosen.append(segment)
    shown = {label: name.code or label for label, name in transcript.names.items()}
    return [
        Passage(
            segment.id,
            shown.get(segment.speaker or "", segment.speaker or "?"),
            segment.text,
            segment.id in own,
        )
        for segment in chosen
        if segment.text
    ]


def _record(
    session: DbSession,
    caller: Caller | None,
    action: audit.Action,
    packet: MemberPacket,
    participant: Participant,
    detail: Mapping[str, audit.Value] | None = None,
) -> None:
    objects: dict[str, UUID | str] = {
        "packet": packet.id,
        "participant": participant.code,
        "transcript": packet.transcript_id,
    }
    audit.record(session, caller, action, packet.study_id, objects, detail=detail)


# --- reading --------------------------------------------------------------------------------------


def find_packet(session: DbSession, caller: Caller, packet_id: UUID) -> MemberPacket:
    """
    Raises:
        PacketNotFound, Erased
    """
    found = session.get(MemberPacket, packet_id, with_for_update=True)
    if found is None or not caller.may_see(found.study_id):
        raise PacketNotFound("There is no such packet, or it is not yours")
    if found.erased_at is not None:
        raise Erased("The packet was erased")
    return found


def packets_of(session: DbSession, participant_id: UUID) -> list[MemberPacket]:
    """Everything that a participant was sent, newest first."""
    query = select(MemberPacket).where(MemberPacket.participant_id == participant_id)
    return list(session.scalars(query.order_by(MemberPacket.created_at.desc(), MemberPacket.id)))


def read_content(session: DbSession, services: Services, packet: MemberPacket) -> Content:
    """
    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    document = _read(session, services, packet, PACKET, packet.artefact_id)
    passages = tuple(Passage(**each) for each in document["passages"])
    return Content(document["session"], passages, document["summary"])


def read_answer(session: DbSession, services: Services, packet: MemberPacket) -> Answer | None:
    """
    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    if packet.answer_artefact_id is None:
        return None
    document = _read(session, services, packet, ANSWER, packet.answer_artefact_id)
    proposals = tuple(Proposal(**each) for each in document["proposals"])
    return Answer(proposals, document["comment"])


def _read(
    session: DbSession, services: Services, packet: MemberPacket, kind: str, id: UUID | None
) -> Any:
    if id is None:
        raise Erased("The packet was erased")
    job_id = session.get_one(StoredTranscript, packet.transcript_id).job_id
    return json.loads(results.read(services, packet.study_id, job_id, kind, id))


def record_reading(
    session: DbSession, caller: Caller, packet: MemberPacket, part: Literal["text", "answer"]
) -> None:
    participant = session.get_one(Participant, packet.participant_id)
    _record(session, caller, "packet.read", packet, participant, {"part": part})


# --- the participant ------------------------------------------------------------------------------


def open_packet(
    session: DbSession, services: Services, secret: str
) -> tuple[MemberPacket, Content]:
    """The text, for who has the link.

    Raises:
        PacketUnusable
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    packet = _find_by_secret(session, secret)
    content = read_content(session, services, packet)
    packet.opened_at = packet.opened_at or datetime.now(UTC)
    participant = session.get_one(Participant, packet.participant_id)
    _record(session, None, "packet.opened", packet, participant)
    return packet, content


def _find_by_secret(session: DbSession, secret: str) -> MemberPacket:
    query = select(MemberPacket).where(MemberPacket.hash == hash_secret(secret))
    packet = session.scalar(query.with_for_update())
    if (
        packet is None
        or packet.erased_at is not None
        or packet.revoked_at is not None
        or packet.expires_at <= datetime.now(UTC)
    ):
        raise PacketUnusable(
            "This link does not work any more: ask the person who sent it for a new one"
        )
    return packet


def answer_packet(
    session: DbSession,
    services: Services,
    secret: str,
    proposals: Sequence[Proposal],
    comment: str | None,
) -> None:
    """Store what the participant proposes. A later answer replaces an earlier one.

    Raises:
        PacketUnusable
        PacketNotPossible: a segment is not the participant's own.
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    packet = _find_by_secret(session, secret)
    if packet.decided:
        raise PacketUnusable("Your answer is being worked on: ask for a new link to change it")
    content = read_content(session, services, packet)
    own = {each.segment: each.text for each in content.passages if each.is_own}
    if not {each.segment for each in proposals} <= own.keys():
        raise PacketNotPossible("Only your own words can be changed")
    changed = tuple(each for each in proposals if each.text != own[each.segment])
    job_id = session.get_one(StoredTranscript, packet.transcript_id).job_id
    written = json.dumps(asdict(Answer(changed, comment))).encode()
    if packet.answer_artefact_id is not None:
        identified(services)[0].keep_another_week(packet.answer_artefact_id)
    packet.answer_artefact_id = results.write(services, packet.study_id, job_id, ANSWER, written)
    packet.answered_at = datetime.now(UTC)
    participant = session.get_one(Participant, packet.participant_id)
    _record(session, None, "packet.answered", packet, participant, {"n": len(changed)})


# --- deciding -------------------------------------------------------------------------------------


def require_proposal(
    session: DbSession, services: Services, packet: MemberPacket, segment: str
) -> Proposal:
    """
    Raises:
        ProposalNotFound
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    answer = read_answer(session, services, packet)
    proposals = {each.segment: each for each in answer.proposals} if answer else {}
    if segment not in proposals or segment in packet.decided:
        raise ProposalNotFound("There is no open proposal for this segment")
    return proposals[segment]


def record_decision(
    session: DbSession,
    caller: Caller,
    packet: MemberPacket,
    segment: str,
    version: int | None,
) -> None:
    """
    Args:
        version: of the transcript that has the change; None if it was declined.
    """
    state = "declined" if version is None else "accepted"
    packet.decided = {**packet.decided, segment: {"state": state, "version": version}}
    participant = session.get_one(Participant, packet.participant_id)
    detail: dict[str, audit.Value] = {"segment": segment, "state": state, "version": version}
    _record(session, caller, "packet.decided", packet, participant, detail)


def revoke_packet(session: DbSession, caller: Caller, packet_id: UUID) -> None:
    """End a packet's link. Safe to repeat.

    Raises:
        PacketNotFound, Erased
    """
    packet = find_packet(session, caller, packet_id)
    packet.revoked_at = packet.revoked_at or datetime.now(UTC)
    participant = session.get_one(Participant, packet.participant_id)
    _record(session, caller, "packet.revoked", packet, participant)


def erase_packets(session: DbSession, services: Services, transcript_id: UUID) -> None:
    """Delete the packets of a transcript whose key is destroyed. Safe to run twice."""
    store, _ = identified(services)
    query = select(MemberPacket).where(MemberPacket.transcript_id == transcript_id)
    for packet in session.scalars(query.with_for_update()):
        for id in (packet.artefact_id, packet.answer_artefact_id):
            if id is not None:
                store.delete(id)
        packet.artefact_id = packet.answer_artefact_id = None
        packet.decided = {}
        packet.erased_at = packet.erased_at or datetime.now(UTC)
