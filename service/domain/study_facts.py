"""Collects what is recorded about a study, for the papers that describe it."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from uuid import UUID

from rapidfuzz.distance import Levenshtein
from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.sampling import wilson
from models.error_rates import ErrorRate, bootstrap_interval, sum_rates
from models.languages import WITHOUT_SPACES
from models.study_facts import (
    Accuracy,
    ApprovalFact,
    ModelUse,
    Recall,
    RetentionFact,
    Share,
    StudyFacts,
)
from models.transcript import Transcript
from service.database import tables
from service.database.tables import (
    Approval,
    AuditEntry,
    BlindSample,
    Consent,
    Correction,
    Handoff,
    Job,
    Mention,
    Participant,
    Recording,
    Release,
    ReleaseFile,
    StoredTranscript,
    Study,
    Token,
    TokenStudy,
)
from service.domain.callers import WORKER
from service.domain.monitoring import backup_age
from service.domain.retention import retention_of
from service.domain.studies import read_policy
from service.domain.transcripts import read_transcript
from service.services import Services

CHANGES = ("text", "speaker", "split", "merge", "insert", "delete", "import")  # of segments


def read_facts(session: DbSession, services: Services, study: Study) -> StudyFacts:
    """
    Raises:
        Sealed, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    now = datetime.now(UTC)
    rows = _newest_transcripts(session, study)
    read = {row.id: read_transcript(session, services, row) for row in rows}
    first = {
        row.id: read_transcript(session, services, row, row.first_version)
        for row in rows
        if any(segment.checked_by for segment in read[row.id].segments)
    }
    changed, checked = _corrected(session, read)
    policy = read_policy(study)
    n_recordings, seconds = session.execute(
        select(func.count(), func.coalesce(func.sum(Recording.duration), 0.0)).where(
            Recording.study_id == study.id, Recording.state == "ready"
        )
    ).one()
    participants = session.scalars(
        select(Participant).where(Participant.study_id == study.id, Participant.erased_at.is_(None))
    ).all()
    consents = _newest_consents(session, participants)
    age = backup_age(services.settings)
    kept = retention_of(session, study)
    live = Release.study_id == study.id, Release.erased_at.is_(None)
    return StudyFacts(
        study=study.code,
        at=now,
        fieldscribe=version("fieldscribe"),
        sessions=_count(
            session,
            tables.Session.kind,
            tables.Session.study_id == study.id,
            tables.Session.erased_at.is_(None),
        ),
        n_recordings=n_recordings,
        seconds=seconds or 0.0,
        n_transcribed=len(read),
        models=_models(read.values()),
        languages=dict(Counter(each.language for each in read.values()).most_common()),
        n_segments=sum(len(each.segments) for each in read.values()),
        n_changed=len({place for places in changed.values() for place in places}),
        n_checked=sum(bool(s.checked_by) for each in read.values() for s in each.segments),
        shares=_shares(session, changed, checked),
        accuracy=measure_accuracy([(first[id], read[id]) for id in first]),
        dates=policy.dates,
        names=policy.names,
        stages=tuple(
            session.scalars(
                select(Handoff.stage)
                .where(Handoff.study_id == study.id, Handoff.status == "completed")
                .distinct()
                .order_by(Handoff.stage)
            )
        ),
        mentions=_count(
            session, Mention.state, Mention.study_id == study.id, Mention.transcript_id.in_(read)
        ),
        reviewers=_reviewers(session, study, read),
        recall=_recall(session, study),
        releases=_count(session, Release.context, *live),
        formats=tuple(
            session.scalars(
                select(ReleaseFile.format)
                .join(Release, Release.id == ReleaseFile.release_id)
                .where(*live)
                .distinct()
                .order_by(ReleaseFile.format)
            )
        ),
        readers=_readers(session, study, now),
        n_participants=len(participants),
        n_withdrawn=sum(each.withdrawn_at is not None for each in participants),
        consents=dict(Counter(scope for each in consents for scope in each.scopes)),
        sheets=tuple(sorted({each.sheet_version for each in consents})),
        approvals=_approvals(session, study),
        consent_warnings=tuple(study.consent_warnings),
        n_audit_entries=session.scalar(
            select(func.count()).select_from(AuditEntry).where(AuditEntry.study_id == study.id)
        )
        or 0,
        backup_at=None if age is None else now - age,
        has_custodian_key=bool(policy.custodian_keys),
        in_bucket=services.settings.storage == "s3",
        retention=tuple(
            RetentionFact(
                each.rule.data_class,
                each.rule.years,
                each.rule.basis,
                each.rule.at_end,
                each.due_on,
                each.state == "destroyed",
            )
            for each in kept.rules
        ),
        on_hold=bool(kept.holds),
    )


def _count(session: DbSession, column: Any, *where: Any) -> dict[str, int]:
    query = select(column, func.count()).where(*where).group_by(column).order_by(column)
    return {key: n for key, n in session.execute(query)}


# --- transcripts ----------------------------------------------------------------------------------


def _newest_transcripts(session: DbSession, study: Study) -> list[StoredTranscript]:
    """The newest transcript of each session, and those of jobs without one."""
    query = (
        select(StoredTranscript, Job.session_id)
        .join(Job, Job.id == StoredTranscript.job_id)
        .where(StoredTranscript.study_id == study.id, Job.erased_at.is_(None))
        .order_by(StoredTranscript.created_at, StoredTranscript.id)
    )
    return list({session_id or row.id: row for row, session_id in session.execute(query)}.values())


def _models(transcripts: Iterable[Transcript]) -> tuple[ModelUse, ...]:
    counted = Counter(
        (
            made.whisper_model,
            made.whisper_sha256,
            made.diarisation_pipeline,
            made.diarisation_sha256,
            made.fieldscribe,
            tuple(sorted(made.versions.items())),
        )
        for made in (each.made_with for each in transcripts)
    )
    return tuple(ModelUse(*key, n) for key, n in counted.most_common())


Places = dict[UUID, set[tuple[UUID, str]]]
"""Segments of transcripts, by the token of who worked on them."""


def _corrected(session: DbSession, read: Mapping[UUID, Transcript]) -> tuple[Places, Places]:
    """
    Returns:
        The segments that people changed and those that they checked, of those that there are now.
    """
    now = {(id, segment.id) for id, each in read.items() for segment in each.segments}
    changed: Places = defaultdict(set)
    checked: Places = defaultdict(set)
    for row in session.scalars(select(Correction).where(Correction.transcript_id.in_(read))):
        places = {(row.transcript_id, segment) for segment in row.segments} & now
        if row.kind in CHANGES:
            changed[row.token_id] |= places
        elif row.kind == "check":
            checked[row.token_id] |= places
    return changed, checked


def _shares(session: DbSession, changed: Places, checked: Places) -> tuple[Share, ...]:
    people = {token for token in (*changed, *checked) if changed[token] or checked[token]}
    query = select(Token).where(Token.id.in_(people)).order_by(Token.created_at, Token.id)
    numbers: Counter[str] = Counter()
    shares = []
    for token in session.scalars(query):
        numbers[token.role] += 1
        n_changed, n_checked = len(changed[token.id]), len(checked[token.id])
        shares.append(Share(token.role, numbers[token.role], n_changed, n_checked))
    return tuple(shares)


def measure_accuracy(versions: Sequence[tuple[Transcript, Transcript]]) -> Accuracy | None:
    """Compare what the models wrote with what people have checked.

    Args:
        versions: of each transcript the first one, by the models, and the present one.

    Returns:
        None if nothing has been checked. A word of the models belongs to the checked segment in
        which its middle lies. Case and punctuation do not count.
    """
    rates, n_segments = [], 0
    for by_models, now in versions:
        errors = total = 0
        for segment in now.segments:
            if not segment.checked_by:
                continue
            n_segments += 1
            heard = [
                word.text
                for word in by_models.words
                if segment.start <= (word.start + word.end) / 2 < segment.end
            ]
            expected = _bare_words(segment.text, now.language)
            errors += Levenshtein.distance(expected, _bare_words("".join(heard), now.language))
            total += len(expected)
        rates.append(ErrorRate(errors, total))
    summed = sum_rates(rates)
    if not summed.total:
        return None
    low, high = bootstrap_interval(rates) or (None, None)
    return Accuracy(int(summed.errors), int(summed.total), n_segments, len(rates), low, high)


def _bare_words(text: str, language: str) -> list[str]:
    words: list[str] = re.findall(r"\w+(?:['’]\w+)*", text.casefold().replace("’", "'"))
    return [*"".join(words)] if language in WITHOUT_SPACES else words


# --- de-identification and people -----------------------------------------------------------------


def _reviewers(session: DbSession, study: Study, transcripts: Iterable[UUID]) -> dict[str, int]:
    query = (
        select(Token.role, func.count(func.distinct(Token.id)))
        .join(Mention, Mention.token_id == Token.id)
        .where(Mention.study_id == study.id, Mention.transcript_id.in_(list(transcripts)))
        .group_by(Token.role)
        .order_by(Token.role)
    )
    return {role: n for role, n in session.execute(query)}


def _recall(session: DbSession, study: Study) -> Recall | None:
    query = (
        select(BlindSample)
        .join(StoredTranscript, StoredTranscript.id == BlindSample.transcript_id)
        .join(Job, Job.id == StoredTranscript.job_id)
        .where(
            BlindSample.study_id == study.id,
            BlindSample.finished_at.is_not(None),
            Job.erased_at.is_(None),
        )
    )
    read = session.scalars(query).all()
    n_found = sum(each.n_found or 0 for each in read)
    n_missed = sum(each.n_missed or 0 for each in read)
    if not n_found + n_missed:
        return None
    n_segments = sum(len(each.segments) for each in read)
    return Recall(n_segments, n_found, n_missed, *wilson(n_found, n_found + n_missed))


def _readers(session: DbSession, study: Study, now: datetime) -> dict[str, int]:
    """How many valid tokens of each role can use the study, without workers and those for all."""
    valid = Token.revoked_at.is_(None) & (Token.expires_at.is_(None) | (Token.expires_at > now))
    own = select(TokenStudy.token_id).where(TokenStudy.study_id == study.id)
    return _count(
        session,
        Token.role,
        valid,
        Token.role != WORKER,
        Token.all_studies | Token.id.in_(own),
    )


def _newest_consents(session: DbSession, participants: Sequence[Participant]) -> list[Consent]:
    query = (
        select(Consent)
        .where(Consent.participant_id.in_([each.id for each in participants]))
        .order_by(Consent.created_at)
    )
    return list({each.participant_id: each for each in session.scalars(query)}.values())


def _approvals(session: DbSession, study: Study) -> tuple[ApprovalFact, ...]:
    query = select(Approval).where(Approval.study_id == study.id, Approval.removed_at.is_(None))
    return tuple(
        ApprovalFact(each.committee, each.site, each.number, each.valid_from, each.valid_until)
        for each in session.scalars(query.order_by(Approval.valid_from, Approval.created_at))
    )
