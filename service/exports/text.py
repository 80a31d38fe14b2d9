"""Plain text to read: a line per segment with time and speaker, then what to listen to again."""

from collections.abc import Iterator

from models.statistics import compute_statistics
from models.transcript import Flag, Segment, Transcript

IDENTIFIED = "IDENTIFIED: what people said, not de-identified. Keep it where the recordings are."
UNKNOWN = "unknown"  # nobody was found speaking there

FLAGS = {
    "speech_without_words": "somebody speaks, but there are no words",
    "few_words": "somebody speaks much longer than it takes to say these words",
    "words_without_speech": "words where nobody was found speaking",
    "other_language": "another language than the rest",
    "loop": "the text repeats itself",
    "low_probability": "Whisper was unsure of these words",
    "too_fast": "more words than anybody says in this time",
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
        f"{_counted(len(transcript.speakers), 'speaker')}, {transcript.made_with.whisper_model}"
    )
    yield ""
    yield from _speakers(transcript)
    yield ""
    for segment in transcript.segments:
        speaker = segment.speaker or UNKNOWN
        yield f"[{clock(segment.start)}] {speaker}: {segment.text}{_overlap(segment, transcript)}"
    if transcript.flags:
        yield ""
        yield "To listen to again:"
        yield from map(_flag, transcript.flags)


def _speakers(transcript: Transcript) -> Iterator[str]:
    """A line each, with a role that the questions suggest."""
    counted = compute_statistics(transcript)
    roles = {suggestion.speaker: suggestion for suggestion in counted.suggestions}
    for speaker in counted.speakers:
        line = (
            f"{speaker.speaker}: {clock(speaker.talk_time)} ({speaker.talk_share:.0%}), "
            f"{_counted(speaker.turns, 'turn')}, {_counted(speaker.words, 'word')}"
        )
        if speaker.speaker in roles:
            suggestion = roles[speaker.speaker]
            share = suggestion.evidence["share_of_questions"]
            line += f"; perhaps the {suggestion.role}: asks {share:.0%} of the questions"
        yield line


def _overlap(segment: Segment, transcript: Transcript) -> str:
    """` [overlap with SPEAKER_01]` where others speak during the segment.

    Of whom there are no words there, the mark says so.
    """
    during = [
        overlap
        for overlap in transcript.overlaps
        if overlap.start < segment.end and overlap.end > segment.start
    ]
    others = {speaker for overlap in during for speaker in overlap.speakers} - {segment.speaker}
    unheard = {speaker for overlap in during for speaker in overlap.unheard} - {segment.speaker}
    if not others:
        return ""
    missing = f"; no words of {', '.join(sorted(unheard))}" if unheard else ""
    return f" [overlap with {', '.join(sorted(others))}{missing}]"


def _flag(flag: Flag) -> str:
    evidence = ", ".join(
        f"{name} {value if isinstance(value, str) else f'{value:g}'}"
        for name, value in flag.evidence.items()
    )
    reason = FLAGS.get(flag.kind, flag.kind)
    return f"[{clock(flag.start)} - {clock(flag.end)}] {reason} ({evidence})"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def clock(seconds: float) -> str:
    """`1:02:03`"""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
