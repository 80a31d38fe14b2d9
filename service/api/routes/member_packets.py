"""Member checking: texts for participants behind links, and what they propose."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from models.corrections import KEEP
from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.sign_in import page_address
from service.api.routes.views import SegmentId, SegmentText, Strict, check_text
from service.database.tables import MemberPacket
from service.domain import member_packets
from service.domain.callers import Caller
from service.domain.consent import ConsentMissing
from service.domain.corrections import Editor, SegmentChanged, SegmentNotFound
from service.domain.member_packets import (
    MAX_DAYS,
    Content,
    PacketNotFound,
    PacketNotPossible,
    PacketUnusable,
    Proposal,
    ProposalNotFound,
)
from service.domain.participants import ParticipantNotFound, find_participant
from service.domain.release_content import NamesLeft
from service.domain.review import ReviewNotReady, ReviewOpen
from service.domain.transcripts import TranscriptNotFound
from service.errors import TooManyRequests
from service.exports import DOCX
from service.exports.packets import packet_docx
from service.vault.errors import READ_ERRORS, DiskFull

router = APIRouter(prefix="/v1", tags=["member checking"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=200)]
LongText = Annotated[
    str, StringConstraints(min_length=1, max_length=50_000), AfterValidator(check_text)
]
Comment = Annotated[str, StringConstraints(max_length=5000), AfterValidator(check_text)]


class NewPacket(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"transcript_id": "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11", "wording": "codes"}
            ]
        }
    )

    transcript_id: UUID
    wording: Literal["codes", "own_words"] = Field(
        default="codes",
        description="`codes`: as in a release, after a finished review. `own_words`: as it was "
        "said, with names; only for an interview.",
    )
    summary: LongText | None = Field(
        default=None, description="A text to check instead of the transcript."
    )
    days: int = Field(default=14, ge=1, le=MAX_DAYS, description="Until the link expires.")


class Decided(BaseModel):
    state: Literal["accepted", "declined"]
    version: int | None = Field(description="Of the transcript that has the change.")


class PacketView(BaseModel):
    """A packet without its text."""

    id: UUID
    participant_id: UUID
    transcript_id: UUID
    transcript_version: int
    kind: Literal["transcript", "summary"]
    wording: Literal["codes", "own_words"]
    created_at: datetime
    expires_at: datetime
    opened_at: datetime | None = Field(description="When the link was first opened.")
    answered_at: datetime | None
    revoked_at: datetime | None
    erased_at: datetime | None
    decided: dict[str, Decided] = Field(description="By segment.")

    @classmethod
    def of(cls, row: MemberPacket) -> Self:
        return cls.model_validate({name: getattr(row, name) for name in cls.model_fields})


class CreatedPacket(BaseModel):
    packet: PacketView
    link: str = Field(description="For the participant. It is shown only now.")


class PacketList(BaseModel):
    items: list[PacketView]


class PassageView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    segment: SegmentId
    speaker: str
    text: str
    is_own: bool = Field(description="The participant said it, and can change it.")


class PacketContent(BaseModel):
    """What a participant reads."""

    session: str
    expires_at: datetime
    answered: bool
    passages: list[PassageView]
    summary: str | None

    @classmethod
    def of(cls, row: MemberPacket, content: Content) -> Self:
        return cls(
            session=content.session,
            expires_at=row.expires_at,
            answered=row.answered_at is not None,
            passages=[PassageView.model_validate(each) for each in content.passages],
            summary=content.summary,
        )


class PacketSecret(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"link": "kq3..."}]})

    link: Secret = Field(description="What follows # in the link.")


class ChangedPassage(Strict):
    segment: SegmentId
    text: SegmentText


class PacketAnswer(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"link": "kq3...", "changes": [{"segment": "s0004", "text": "I never said that."}]}
            ]
        }
    )

    link: Secret
    changes: list[ChangedPassage] = Field(default=[], max_length=5000)
    comment: Comment | None = None

    @model_validator(mode="after")
    def _segments_differ(self) -> Self:
        if len({each.segment for each in self.changes}) < len(self.changes):
            raise ValueError("a segment is changed twice")
        return self


class ProposalView(BaseModel):
    segment: SegmentId
    before: str = Field(description="As the participant read it.")
    after: str
    state: Literal["open", "accepted", "declined"]


class AnswerView(BaseModel):
    items: list[ProposalView]
    comment: str | None
    answered_at: datetime | None


class ProposalDecision(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"segment": "s0004", "accept": True}]}
    )

    segment: SegmentId
    accept: bool
    text: SegmentText | None = Field(
        default=None,
        description="The segment's new text. Needed for packets with codes, in which names were "
        "replaced; otherwise by default what the participant proposed.",
    )


@router.post(
    "/participants/{participant_id}/packets",
    status_code=201,
    responses=problems(
        ParticipantNotFound,
        TranscriptNotFound,
        PacketNotPossible,
        ConsentMissing,
        ReviewNotReady,
        ReviewOpen,
        NamesLeft,
        *READ_ERRORS,
        DiskFull,
    ),
)
def create_packet(
    participant_id: UUID,
    wanted: NewPacket,
    request: Request,
    caller: Researcher,
    services: ServicesDep,
) -> CreatedPacket:
    """Make a text for a participant to check, and its link. Of a group they get their own turns."""
    with services.sessionmaker.begin() as session:
        participant = find_participant(session, caller, participant_id)
        packet, secret = member_packets.create_packet(
            session,
            services,
            caller,
            participant,
            wanted.transcript_id,
            wanted.wording,
            days=wanted.days,
            summary=wanted.summary,
        )
    link = page_address(request, services.settings, f"/check#{secret}")
    return CreatedPacket(packet=PacketView.of(packet), link=link)


@router.get("/participants/{participant_id}/packets", responses=problems(ParticipantNotFound))
def list_packets(participant_id: UUID, caller: Researcher, services: ServicesDep) -> PacketList:
    """What a participant was sent, newest first, without the texts."""
    with services.sessionmaker() as session:
        participant = find_participant(session, caller, participant_id)
        rows = member_packets.packets_of(session, participant.id)
    return PacketList(items=[PacketView.of(row) for row in rows])


@router.get(
    "/packets/{packet_id}/docx",
    response_class=Response,
    responses={
        200: {"description": "The text as a Word document.", "content": {DOCX: {}}},
        **problems(PacketNotFound, *READ_ERRORS),
    },
)
def read_packet(packet_id: UUID, caller: Researcher, services: ServicesDep) -> Response:
    """The text as a Word document, to send to the participant."""
    with services.sessionmaker.begin() as session:
        packet = member_packets.find_packet(session, caller, packet_id)
        content = member_packets.read_content(session, services, packet)
        member_packets.record_reading(session, caller, packet, "text")
    return Response(
        packet_docx(
            content.session, [(p.speaker, p.text) for p in content.passages], content.summary
        ),
        media_type=DOCX,
        headers={"Content-Disposition": f'attachment; filename="{content.session}.to-check.docx"'},
    )


@router.get("/packets/{packet_id}/answer", responses=problems(PacketNotFound, *READ_ERRORS))
def read_answer(packet_id: UUID, caller: Researcher, services: ServicesDep) -> AnswerView:
    """What the participant proposes."""
    with services.sessionmaker.begin() as session:
        packet = member_packets.find_packet(session, caller, packet_id)
        content = member_packets.read_content(session, services, packet)
        answer = member_packets.read_answer(session, services, packet)
        member_packets.record_reading(session, caller, packet, "answer")
    before = {each.segment: each.text for each in content.passages}
    return AnswerView(
        items=[
            ProposalView(
                segment=each.segment,
                before=before[each.segment],
                after=each.text,
                state=packet.decided.get(each.segment, {"state": "open"})["state"],
            )
            for each in (answer.proposals if answer else ())
        ],
        comment=answer.comment if answer else None,
        answered_at=packet.answered_at,
    )


@router.post(
    "/packets/{packet_id}/decisions",
    responses=problems(
        PacketNotFound,
        ProposalNotFound,
        PacketNotPossible,
        SegmentNotFound,
        SegmentChanged,
        *READ_ERRORS,
        DiskFull,
    ),
)
def decide_on_proposal(
    packet_id: UUID, decision: ProposalDecision, caller: Researcher, services: ServicesDep
) -> PacketView:
    """Accept a proposal as a correction of the transcript, or decline it."""
    with services.sessionmaker.begin() as session:
        packet = member_packets.find_packet(session, caller, packet_id)
        proposal = member_packets.require_proposal(session, services, packet, decision.segment)
        version = None
        if decision.accept:
            if decision.text is None and packet.wording == "codes":
                raise PacketNotPossible(
                    "Give the segment's new text: the participant read it with codes for names"
                )
            editor = Editor.open(session, services, caller, packet.transcript_id, packet.id)
            made = editor.edit(
                decision.segment,
                packet.transcript_version,
                text=decision.text or proposal.text,
                speaker=KEEP,
                checked_by=KEEP,
            )
            version = made.transcript.version
        member_packets.record_decision(session, caller, packet, decision.segment, version)
    return PacketView.of(packet)


@router.delete("/packets/{packet_id}", status_code=204, responses=problems(PacketNotFound))
def revoke_packet(packet_id: UUID, caller: Researcher, services: ServicesDep) -> None:
    """End a packet's link. The text stays until the job is deleted."""
    with services.sessionmaker.begin() as session:
        member_packets.revoke_packet(session, caller, packet_id)


@router.post("/packet/open", responses=problems(PacketUnusable, TooManyRequests, *READ_ERRORS))
def open_packet(
    wanted: PacketSecret, request: Request, services: ServicesDep, limits: LimitsDep
) -> PacketContent:
    """The text behind a link. No token needed."""
    with services.sessionmaker.begin() as session:
        try:
            packet, content = member_packets.open_packet(session, services, wanted.link)
        except PacketUnusable:
            limits.bad_tokens.require(_address(request))
            raise
    return PacketContent.of(packet, content)


@router.post(
    "/packet/answer",
    status_code=204,
    responses=problems(PacketUnusable, PacketNotPossible, TooManyRequests, *READ_ERRORS, DiskFull),
)
def answer_packet(
    answer: PacketAnswer, request: Request, services: ServicesDep, limits: LimitsDep
) -> None:
    """Propose changes. No token needed."""
    proposals = [Proposal(each.segment, " ".join(each.text.split())) for each in answer.changes]
    with services.sessionmaker.begin() as session:
        try:
            member_packets.answer_packet(session, services, answer.link, proposals, answer.comment)
        except PacketUnusable:
            limits.bad_tokens.require(_address(request))
            raise


def _address(request: Request) -> str:
    client: Any = request.client
    return "" if client is None else str(client.host)
