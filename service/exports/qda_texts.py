"""Plain texts with time marks for MAXQDA, f4 and ATLAS.ti: one paragraph per turn.

Sources: MAXQDA, "Importing Focus Group Transcripts",
https://www.maxqda.com/help-mx22/import/importing-focus-group-transcripts (a contribution is a
paragraph that begins with a name of at most 63 characters and a colon; text before the first is
not coded). f4's time marks: `#00:01:12-3#`. ATLAS.ti: time marks `#00:01:12.3#`, speakers `@name:`.
"""

from collections.abc import Callable

from models.transcript import Transcript
from service.exports.options import ExportOptions, Label, Timestamps
from service.exports.paragraphs import paragraphs, timestamp
from service.exports.text import header

MAX_NAME = 63  # characters


def maxqda(transcript: Transcript, label: Label, options: ExportOptions) -> str:
    """`P07: text #00:01:12-3#`; as in f4, the mark is the time at which the turn ends."""
    return _text(transcript, label, options, "{name}: {text}", f4_mark, " {mark}")


def atlas(transcript: Transcript, label: Label, options: ExportOptions) -> str:
    """`#00:01:12.3#@P07: text`; ATLAS.ti hides the mark, so that the name begins the paragraph."""
    return _text(transcript, label, options, "{mark}@{name}: {text}", atlas_mark, "")


def _text(
    transcript: Transcript,
    label: Label,
    options: ExportOptions,
    pattern: str,
    mark: Callable[[float], str],
    at_end: str,
) -> str:
    lines = [*header(transcript, label), ""]
    for paragraph in paragraphs(transcript, options, by_turn=True, stamp=mark):
        time = mark(paragraph.end if at_end else paragraph.start)
        shown = "" if options.timestamps == Timestamps.NONE else time
        line = pattern.format(name=name(paragraph.speaker), text=paragraph.text, mark=shown)
        lines.append(line + at_end.format(mark=shown).rstrip())
    return "\n".join(lines) + "\n"


def name(speaker: str) -> str:
    """The speaker as a name that ends at the first colon."""
    text = speaker.replace(":", "-")
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 1]}…"


def f4_mark(seconds: float) -> str:
    return f"#{timestamp(seconds, 1, '-')}#"


def atlas_mark(seconds: float) -> str:
    return f"#{timestamp(seconds, 1)}#"
