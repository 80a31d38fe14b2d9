"""How far a transcript is from a reference: word errors, word times, diarisation errors.

Counts are summed before they are divided; means of rates would favour short recordings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from models.transcript import Turn

NORMALISER = "whisper.normalizers.EnglishTextNormalizer"


@dataclass(frozen=True)
class Rate:
    """`errors` of `total`; the units are those of who counted."""

    errors: float
    total: float

    @property
    def rate(self) -> float:
        return self.errors / self.total if self.total else float(self.errors > 0)

    def __add__(self, other: "Rate") -> "Rate":
        return Rate(self.errors + other.errors, self.total + other.total)


@dataclass(frozen=True)
class TimedText:
    """A word of a reference or a hypothesis; seconds."""

    text: str
    start: float
    end: float


def word_errors(reference: str, hypothesis: str) -> Rate:
    """Substitutions, deletions and insertions of reference words, after whisper's normaliser."""
    import jiwer
    from whisper.normalizers import EnglishTextNormalizer

    normalise = EnglishTextNormalizer()
    expected, found = normalise(reference).split(), normalise(hypothesis).split()
    if not expected:
        return Rate(len(found), 0)
    counts = jiwer.process_words(" ".join(expected), " ".join(found))
    errors = counts.substitutions + counts.deletions + counts.insertions
    return Rate(errors, len(expected))


def time_errors(
    reference: Sequence[TimedText], hypothesis: Sequence[TimedText], tolerance: float = 0.3
) -> Rate:
    """Words recognised rightly whose start or end is off by more than `tolerance` seconds."""
    import jiwer

    def bare(words: Sequence[TimedText]) -> str:
        return " ".join(
            "".join(c for c in word.text.lower() if c.isalnum()) or "-" for word in words
        )

    aligned = jiwer.process_words(bare(reference), bare(hypothesis)).alignments[0]
    total = off = 0
    for chunk in aligned:
        if chunk.type != "equal":
            continue
        for i in range(chunk.ref_end_idx - chunk.ref_start_idx):
            expected = reference[chunk.ref_start_idx + i]
            found = hypothesis[chunk.hyp_start_idx + i]
            total += 1
            off += (
                abs(expected.start - found.start) > tolerance
                or abs(expected.end - found.end) > tolerance
            )
    return Rate(off, total)


def diarisation_errors(
    reference: Sequence[Turn], hypothesis: Sequence[Turn], *, collar: float = 0.0
) -> Rate:
    """Seconds of false alarm, missed speech and confusion, of the reference's speech time.

    Overlapped speech counts for each of its speakers. Source: pyannote.metrics.

    Args:
        collar: seconds around each reference boundary that do not count, half on each side.
    """
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotation(turns: Sequence[Turn]) -> Annotation:
        made = Annotation()
        for i, turn in enumerate(turns):
            made[Segment(turn.start, turn.end), i] = turn.speaker
        return made

    metric = DiarizationErrorRate(collar=collar, skip_overlap=False)
    everything = Timeline([Segment(0.0, max(turn.end for turn in (*reference, *hypothesis)))])
    parts = metric(annotation(reference), annotation(hypothesis), uem=everything, detailed=True)
    errors = parts["false alarm"] + parts["missed detection"] + parts["confusion"]
    return Rate(float(errors), float(parts["total"]))
