"""Plain text: the transcript and, in a separate file, statistics and passages to check."""

from collections.abc import Iterator

from models.statistics import compute_statistics
from models.transcript import Flag, Transcript
from service.exports.options import ExportOptions, Label, Timestamps
from service.exports.paragraphs import paragraphs, timestamp
from service.exports.wording import one_line

FLAGS = {
    "speech_without_words": "speech without words",
    "few_words": "few words for so much speech; some may be missing",
    "words_without_speech": "words where no speech was found",
    "other_language": "in a different language from the rest",
    "unsure_language": "the language is unclear; the text may be translated or invented",
    "loop": "the text repeats itself",
    "taken_for_silence": "Whisper heard no speech here; what it wrote was left out",
    "improbable_window": "Whisper was far less sure than usual",
    "crammed_words": "several words at the same time; they may be invented",
    "low_probability": "Whisper was unsure of these words",
    "too_fast": "more words than anyone can say in this time",
}


def confidentiality(label: Label) -> str:
    """The sentence with which every export begins."""
    if label.release is None:
        return "IDENTIFIED. What people said, not de-identified. Keep it where the recordings are."
    return f"RELEASE {label.release}. De-identified: pseudonyms replace what identifies people."


def header(transcript: Transcript, label: Label) -> list[str]:
    """Lines about the transcript. None has a colon: MAXQDA would take it for a speaker's name."""
    about = (
        f"Duration {_in_words(transcript.duration)}, language {transcript.language}, "
        f"{_count(len(transcript.speakers), 'speaker')}, {transcript.made_with.whisper_model}"
    )
    warnings = [f"WARNING. {text}" for text in transcript.warnings]
    lines = [confidentiality(label), label.title, about, *warnings]
    return [one_line(line).replace(": ", " - ").replace(":", "-") for line in lines]


def txt(transcript: Transcript, label: Label, options: ExportOptions) -> str:
    """A line per segment: `[00:01:02] P07: text`, after the header and an empty line."""
    lines = header(transcript, label)
    lines.append("")
    for paragraph in paragraphs(transcript, options, stamp=_stamp):
        time = "" if options.timestamps == Timestamps.NONE else f"{_stamp(paragraph.start)} "
        name = paragraph.speaker.replace(":", "-")
        lines.append(f"{time}{name}: {paragraph.text}")
    return "\n".join(lines) + "\n"


def _stamp(seconds: float) -> str:
    return f"[{timestamp(seconds)}]"


def statistics(transcript: Transcript, label: Label, options: ExportOptions) -> str:
    """How much each speaker says, and the passages to check against the recording."""
    lines = [*header(transcript, label), "", *_speakers(transcript)]
    if transcript.flags:
        lines += ["", "Passages to check against the recording:"]
        lines += map(_describe_flag, transcript.flags)
    return "\n".join(lines) + "\n"


def _speakers(transcript: Transcript) -> Iterator[str]:
    """Yield a line per speaker, with the role that their share of questions suggests."""
    counted = compute_statistics(transcript)
    roles = {suggestion.speaker: suggestion for suggestion in counted.suggestions}
    for speaker in counted.speakers:
        line = (
            f"{one_line(speaker.speaker)}: {timestamp(speaker.talk_time)} "
            f"({speaker.talk_share:.0%}), "
            f"{_count(speaker.turns, 'turn')}, {_count(speaker.words, 'word')}"
        )
        if speaker.speaker in roles:
            suggestion = roles[speaker.speaker]
            share = suggestion.evidence["share_of_questions"]
            line += f"; perhaps the {suggestion.role}: asks {share:.0%} of the questions"
        yield line


def _describe_flag(flag: Flag) -> str:
    evidence = ", ".join(
        f"{name} {value if isinstance(value, str) else f'{value:g}'}"
        for name, value in flag.evidence.items()
    )
    reason = FLAGS.get(flag.kind, flag.kind)
    return f"[{timestamp(flag.start)} - {timestamp(flag.end)}] {reason} ({evidence})"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _in_words(seconds: float) -> str:
    """`1 h 02 min 03 s`"""
    whole = int(seconds)
    return f"{whole // 3600} h {whole // 60 % 60:02d} min {whole % 60:02d} s"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: `1:02:03`."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
