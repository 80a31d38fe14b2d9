"""Transcripts of the demo focus group for tests of the editor."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

from models.transcript import Flag, Segment, Source, Transcript, Turn, Word
from scripts.synthetic_transcript import MADE_WITH
from tests.api import Api
from tests.finished import finish_job

DEMO = Path(__file__).parent.parent / "demo"
DURATION = 63.98  # s
# Everything that a page might run, or that might turn its text round.
CANARY = (
    "<img src=x onerror=alert(1)> <script>alert(2)</script> </p><b>bold</b> {{7*7}} ${7*7} "
    'javascript:alert(3) \u202eevil\u202c \u2066x\u2069 &amp; &lt; "quote" \' `tick` end.'
)


def focus_group() -> Transcript:
    """What the demo focus group says, by sentences, with the times of its words."""
    words = [line.split() for line in (DEMO / "focus-group.ctm").read_text().splitlines()]
    spoken = [(float(word[2]), float(word[3]), word[4]) for word in words if word[0] != ";;"]
    labels: dict[str, str] = {}
    segments: list[Segment] = []
    for line in (DEMO / "focus-group.stm").read_text().splitlines():
        _, _, person, start, end, text = line.split(maxsplit=5)
        label = labels.setdefault(person, f"SPEAKER_{len(labels):02d}")
        own = [each for each in spoken if float(start) - 0.05 <= each[0] < float(end)]
        timed = [
            Word(f" {word}", begin, round(begin + length, 3), 0.3 if len(word) > 9 else 0.9)
            for word, (begin, length, _) in zip(text.split(), own, strict=False)
        ]
        id = f"s{len(segments) + 1:04d}"
        segments.append(Segment(label, float(start), float(end), tuple(timed), id))
    third, fifth = segments[2], segments[4]
    return Transcript(
        duration=DURATION,
        language="en",
        language_probability=None,
        speakers=tuple(labels.values()),
        segments=tuple(segments),
        turns=tuple(Turn(each.start, each.end, each.speaker or "") for each in segments),
        overlaps=(),
        flags=(
            Flag("low_probability", third.start, third.end, {"mean_word_probability": 0.34}),
            Flag("few_words", fifth.start, fifth.end, {"words": 3, "speech_seconds": 4.0}),
        ),
        sources=(Source(0.0, DURATION, "flac", "flac", 16_000, 1, 0),),
        made_with=MADE_WITH,
    )


def canary() -> Transcript:
    """The focus group, whose first two sentences are the canary."""
    document = focus_group()
    segments = list(document.segments)
    words = CANARY.split(" ")
    for i in (0, 1):
        start, end = segments[i].start, segments[i].end
        step = (end - start) / len(words)
        timed = tuple(
            Word(f" {word}", round(start + j * step, 3), round(start + (j + 1) * step, 3), 0.3)
            for j, word in enumerate(words)
        )
        segments[i] = replace(segments[i], words=timed)
    return replace(document, segments=tuple(segments))


def make_transcript(api: Api, study: str, recordings: str | list[str], document: Transcript) -> str:
    """Finish a job of the recordings with this transcript, and return its id."""
    ids = [recordings] if isinstance(recordings, str) else recordings
    body = {"study": study, "recordings": ids, "model": "demo"}
    job = api.post("/v1/jobs", json=body)
    assert job.status_code < 300, job.text
    return str(finish_job(api.services, UUID(job.json()["id"]), document))
