"""Blind samples: passages that a second person reads without seeing what the first has decided.

The reader marks every identifier. Those that the review has not accepted were missed; they are
added to it, and their share estimates how complete the review was.

ServiceError
├── SampleNotFound
├── SampleFinished
└── SampleOutdated
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.sampling import wilson
from service.database.tables import BlindSample, Decision
from service.domain.callers import Caller
from service.domain.deciding import Addition, BadDecision, Decider
from service.domain.mentions import covers
from service.domain.review import ReviewEditor, require_finished
from service.errors import ServiceError
from service.services import Services

DEFAULT_SEGMENTS = 20


class SampleNotFound(ServiceError):
    """The transcript has no blind sample with this id, or another person reads it."""

    code: ClassVar[str] = "sample_not_found"
    status: ClassVar[int] = 404


class SampleFinished(ServiceError):
    """The blind sample has been read already."""

    code: ClassVar[str] = "sample_finished"
    status: ClassVar[int] = 409


class SampleOutdated(ServiceError):
    """The transcript has been corrected since the blind sample was drawn."""

    code: ClassVar[str] = "sample_outdated"
    status: ClassVar[int] = 409


@dataclass(frozen=True)
class Estimate:
    """The share of identifiers that the review had found, in samples of `n_segments`.

    `low`, `high`: the 95 % Wilson interval. `is_independent`: all readers are people who have
    decided nothing else in the review.
    """

    n_segments: int
    n_found: int
    n_missed: int
    recall: float | None
    low: float
    high: float
    is_independent: bool


def draw(
    session: DbSession,
    services: Services,
    caller: Caller,
    transcript_id: UUID,
    n_segments: int = DEFAULT_SEGMENTS,
) -> tuple[BlindSample, ReviewEditor]:
    """Draw segments at random, of those that have text.

    Raises:
        TranscriptNotFound, ReviewNotReady, ReviewOpen
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    editor = ReviewEditor.open(session, services, caller, transcript_id)
    require_finished(editor.decided())
    ids = [segment.id for segment in editor.transcript.segments if segment.text]
    drawn = set(random.SystemRandom().sample(ids, min(n_segments, len(ids))))
    sample = BlindSample(
        study_id=editor.row.study_id,
        transcript_id=transcript_id,
        transcript_version=editor.transcript.version,
        segments=[id for id in ids if id in drawn],
        token_id=caller.token_id,
    )
    session.add(sample)
    session.flush()
    return sample, editor


def open_sample(
    session: DbSession,
    services: Services,
    caller: Caller,
    transcript_id: UUID,
    sample_id: UUID,
) -> tuple[BlindSample, ReviewEditor]:
    """A sample that the caller has drawn and not finished, locked.

    Raises:
        TranscriptNotFound, ReviewNotReady, SampleNotFound, SampleFinished, SampleOutdated
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    editor = ReviewEditor.open(session, services, caller, transcript_id)
    sample = session.get(BlindSample, sample_id, with_for_update=True)
    if (
        sample is None
        or sample.transcript_id != transcript_id
        or sample.token_id != caller.token_id
    ):
        raise SampleNotFound("There is no such sample, or another person reads it")
    if sample.finished_at is not None:
        raise SampleFinished("The sample has been read already: draw another")
    if sample.transcript_version != editor.transcript.version:
        raise SampleOutdated("The transcript has been corrected since: draw another sample")
    return sample, editor


def finish(
    session: DbSession,
    services: Services,
    caller: Caller,
    transcript_id: UUID,
    sample_id: UUID,
    marks: Sequence[Addition],
) -> BlindSample:
    """Compare the reader's marks with the review, and add those that it missed.

    A mark is found if an accepted mention covers it.

    Raises:
        TranscriptNotFound, ReviewNotReady, SampleNotFound, SampleFinished, SampleOutdated
        BadDecision, EntityNotFound, EntityAmbiguous
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    sample, editor = open_sample(session, services, caller, transcript_id, sample_id)
    if any(mark.segment not in sample.segments for mark in marks):
        raise BadDecision("A mark lies outside the sample")
    decider = Decider(editor)
    found = [span for span in editor.decided().spans if span.segment in set(sample.segments)]
    missed = set()
    for mark in marks:
        place = decider.place(mark)
        accepted = [each for each in editor.mentions if each.state == "accepted"]
        if any(each.segment == place.segment and covers(each, place) for each in accepted):
            continue
        missed.add(decider.add(replace(mark, origin="sample")).id)
    decider.finish()
    sample.n_found, sample.n_missed = len(found), len(missed)
    sample.finished_at = editor.now
    session.flush()
    return sample


def list_samples(session: DbSession, transcript_id: UUID) -> list[BlindSample]:
    query = select(BlindSample).where(BlindSample.transcript_id == transcript_id)
    return list(session.scalars(query.order_by(BlindSample.created_at)))


def estimate_recall(session: DbSession, transcript_id: UUID) -> Estimate | None:
    """The estimate from all samples that have been read; None if there is none."""
    read = [each for each in list_samples(session, transcript_id) if each.finished_at is not None]
    if not read:
        return None
    n_found = sum(each.n_found or 0 for each in read)
    n_missed = sum(each.n_missed or 0 for each in read)
    low, high = wilson(n_found, n_found + n_missed)
    deciders = select(Decision.token_id).where(
        Decision.transcript_id == transcript_id,
        Decision.rule.is_(None),
        Decision.at < min(each.created_at for each in read),
    )
    readers = {each.token_id for each in read}
    return Estimate(
        n_segments=sum(len(each.segments) for each in read),
        n_found=n_found,
        n_missed=n_missed,
        recall=n_found / (n_found + n_missed) if n_found + n_missed else None,
        low=low,
        high=high,
        is_independent=readers.isdisjoint(session.scalars(deciders)),
    )
