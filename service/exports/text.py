"""Plain text: a line per segment with its time and speaker, then the passages to check."""

from collections.abc import Iterator

from models.statistics import compute_statistics
from models.transcript import Flag, Segment, Transcript
from service.exports.overlap_index import OverlapIndex

IDENTIFIED = "IDENTIFIED: what people said, not de-identified. Keep it where the recordings are."
UNKNOWN = "unknown"  # diarisation found no speaker there

FLAGS = {
    "speech_without_words": "speech without words",
    "few_words": "few words for so much speech; some may be missing",
    "words_without_speech": "words where no speech was found",
    "other_language": "in another language than the rest",
    "loop": "the text repeats itself",
    "low_probability": "Whisper was unsure of these words",
    "too_fast": "more words than anyone can say in this time",
}


def txt(transcript: Transcript) -> str:
    return "\n".join(_lines(transcript)) + "\n"


def _lines(transcript: Transcript) -> Iterator[str]:
    yield IDENTIFIED
    for warning in transcript.warnings:
        yield f"WARNING: {warning}"
    yield ""
    yield (
        f"Duration {clock(transcript.duration)}, language {transcript.language}, "
        f"{_count(len(transcript.speakers), 'speaker')}, {transcript.made_with.whisper_model}"
    )
    yield ""
    yield from _speakers(transcript)
    yield ""
    overlaps = OverlapIndex(transcript.overlaps)
    for segment in transcript.segments:
        speaker, mark = segment.speaker or UNKNOWN, _overlap_mark(segment, overlaps)
        yield f"[{clock(segment.start)}] {speaker}: {segment.text}{mark}"
    if transcript.flags:
        yield ""
        yield "Passages to check against the recording:"
        yield from map(_describe_flag, transcript.flags)


def _speakers(transcript: Transcript) -> Iterator[str]:
    """Yield a line per speaker, with the role that their share of questions suggests."""
    counted = compute_statistics(transcript)
    roles = {suggestion.speaker: suggestion for suggestion in counted.suggestions}
    for speaker in counted.speakers:
        line = (
            f"{speaker.speaker}: {clock(speaker.talk_time)} ({speaker.talk_share:.0%}), "
            f"{_count(speaker.turns, 'turn')}, {_count(speaker.words, 'word')}"
        )
        if speaker.speaker in roles:
            suggestion = roles[speaker.speaker]
            share = suggestion.evidence["share_of_questions"]
            line += f"; perhaps the {suggestion.role}: asks {share:.0%} of the questions"
        yield line


def _overlap_mark(segment: Segment, overlaps: OverlapIndex) -> str:
    """` [overlap with SPEAKER_01]` if others speak during the segment, else an empty string.

    The mark also names those whose words in the overlap are missing.
    """
    during = overlaps.during(segment.start, segment.end)
    others = {speaker for overlap in during for speaker in overlap.speakers} - {segment.speaker}
    unheard = {speaker for overlap in during for speaker in overlap.unheard} - {segment.speaker}
    if not others:
        return ""
    missing = f"; no words of {', '.join(sorted(unheard))}" if unheard else ""
    return f" [overlap with {', '.join(sorted(others))}{missing}]"


def _describe_flag(flag: Flag) -> str:
    evidence = ", ".join(
        f"{name} {value if isinstance(value, str) else f'{value:g}'}"
        for name, value in flag.evidence.items()
    )
    reason = FLAGS.get(flag.kind, flag.kind)
    return f"[{clock(flag.start)} - {clock(flag.end)}] {reason} ({evidence})"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: `1:02:03`."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
