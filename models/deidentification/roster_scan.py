"""Finds the names of a roster in a transcript that was read before: new names, corrected passages.

`detect.py` looks for names as well, together with everything else.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from models.deidentification.detect import build_runs, detect, to_occurrences, uncased_tokens
from models.deidentification.known_names import KnownNames
from models.deidentification.lexicons import read_lexicons
from models.deidentification.occurrences import KnownEntity, Occurrence, SpokenSegment
from models.deidentification.reading import locate_words
from models.deidentification.tokens import is_cased, tokenise
from models.transcript import Transcript


def spoken_segments(transcript: Transcript) -> list[SpokenSegment]:
    return [
        SpokenSegment(
            segment.id,
            segment.speaker,
            segment.text,
            locate_words([word.text for word in segment.words], segment.text),
        )
        for segment in transcript.segments
    ]


def find_known(
    segments: Sequence[SpokenSegment], entities: Sequence[KnownEntity]
) -> list[Occurrence]:
    """Find names of these entities, with their misspellings, by the same rules as `detect`."""
    if not entities:
        return []
    lexicons = read_lexicons()
    known = KnownNames(entities, lexicons)
    runs = build_runs(segments)
    cased = is_cased(" ".join(segment.text for segment in segments))
    found = []
    for run in runs:
        tokens = (
            tokenise(run.text, lexicons) if cased else uncased_tokens(run.text, lexicons, known)
        )
        found.append(known.find(tokens, cased=cased))
    return to_occurrences(segments, runs, found)


def find_in(segments: Sequence[SpokenSegment], ids: Collection[str]) -> list[Occurrence]:
    """Find all identifiers by rules in some segments of a transcript."""
    return list(detect([one for one in segments if one.id in ids]).occurrences)


@dataclass(frozen=True)
class NameIndex:
    """The entities that a surface may mean. `fold` gives the form in which names are compared."""

    by_form: dict[str, frozenset[str]]

    @classmethod
    def of(cls, names: Iterable[tuple[str, bool, Iterable[str]]]) -> "NameIndex":
        """
        Args:
            names: of each entity the id, whether it is a person, and the folded names. Each word
                of a person's name is a name too.
        """
        forms: defaultdict[str, set[str]] = defaultdict(set)
        for id, is_person, folded in names:
            for name in folded:
                forms[name].add(id)
                if is_person:
                    for word in name.split():
                        forms[word].add(id)
        return cls({form: frozenset(ids) for form, ids in forms.items()})

    def find(self, folded: str) -> frozenset[str]:
        return self.by_form.get(folded, frozenset())
