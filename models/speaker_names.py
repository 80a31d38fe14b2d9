"""The names that a transcript shows for its speakers: codes, roles or chosen pseudonyms."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from models.overlaps import find_overlaps
from models.transcript import SpeakerName, Transcript

CODE = r"^[A-Z]{1,3}-?[0-9]{1,4}(-[A-Z]{0,3}[0-9]{1,3})?$"
"""P07, I1, M1, FG1-P3, INT07-2. No real name fits this pattern, so codes may be stored and sent
where names may not."""
MAX_PSEUDONYM = 40  # characters
PSEUDONYM_MARKS = " .'’-"


def is_code(text: str) -> bool:
    return re.fullmatch(CODE[1:-1], text) is not None


def is_pseudonym(text: str) -> bool:
    """Return whether a text can be shown as a name in every format.

    Letters, digits and a few marks only: a colon or a bracket would end the name in some formats,
    and an underscore is in labels.
    """
    return (
        0 < len(text) <= MAX_PSEUDONYM
        and text[0].isalpha()
        and text == " ".join(text.split())
        and all(unicodedata.category(c)[0] in "LMN" or c in PSEUDONYM_MARKS for c in text)
    )


def names_of(labels: Sequence[str], speakers: Mapping[str, SpeakerName]) -> dict[str, str]:
    """Return the name that each label is shown with.

    It is the pseudonym, else the code, else the role, else the label. Labels with the same
    pseudonym or code are one person, whom diarisation split in two. Labels with the same role are
    different people, and are numbered.
    """
    known = {label: speakers.get(label, SpeakerName()) for label in labels}
    own = {label: name.pseudonym or name.code for label, name in known.items()}
    roles = Counter(name.role for label, name in known.items() if own[label] is None)
    seen: Counter[str] = Counter()
    shown = {}
    for label, name in known.items():
        if (chosen := own[label]) is not None:
            shown[label] = chosen
        elif name.role is not None:
            seen[name.role] += 1
            shown[label] = name.role if roles[name.role] == 1 else f"{name.role} {seen[name.role]}"
        else:
            shown[label] = label
    return shown


def show_names(transcript: Transcript) -> Transcript:
    """Return the transcript with names in place of labels; its `names` are then by name.

    Labels with the same name are one person, whose overlaps with themselves are left out. Every
    export shows this transcript.
    """
    shown = names_of(transcript.speakers, transcript.names)

    def rename(labels: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(shown.get(label, label) for label in labels))

    made = replace(
        transcript,
        speakers=rename(transcript.speakers),
        segments=tuple(
            replace(one, speaker=shown.get(one.speaker, one.speaker) if one.speaker else None)
            for one in transcript.segments
        ),
        turns=tuple(
            replace(turn, speaker=shown.get(turn.speaker, turn.speaker))
            for turn in transcript.turns
        ),
        overlaps=tuple(
            replace(one, speakers=rename(one.speakers), unheard=rename(one.unheard))
            for one in transcript.overlaps
        ),
        names={shown[label]: name for label, name in reversed(list(transcript.names.items()))},
    )
    if len(made.speakers) == len(transcript.speakers):
        return made
    return replace(made, overlaps=find_overlaps(made.turns, made.segments))
