"""Finds where the spoken language changes, and whether the requested language is spoken at all.

If the speech is not in the language it was given, Whisper translates it or invents text, without
saying so.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from models.diarisation.segmentation import SpeechRegion
from models.languages import LANGUAGES
from models.whisper_engine.engine import CLEAR_LANGUAGE, LanguageGuess

CHANGE_PAUSE = 0.5  # s of silence in which the language may change
MIN_VOTE = 2.0  # s of speech; Whisper's guess about less is often wrong
ALIKE = ({"no", "nn"}, {"hr", "bs", "sr"}, {"id", "ms"}, {"zh", "yue"})
"""Languages that Whisper cannot distinguish reliably, or that are written the same way."""

Guess = Callable[[Sequence[Sequence[SpeechRegion]]], Sequence[LanguageGuess]]


def find_language_changes(regions: Sequence[SpeechRegion], guess: Guess) -> tuple[float, ...]:
    """The middles of the pauses in which the language seems to change, in seconds.

    A stretch whose language is unclear is separated from neighbours whose language is clear, unless
    its most probable language is theirs.

    Args:
        regions: speech, in order, without overlap.
        guess: the most probable language of each of several stretches of speech.
    """
    stretches = split_at_pauses(regions)
    guesses = guess(stretches) if len(stretches) > 1 else ()
    clear = [each.language if each.probability > CLEAR_LANGUAGE else None for each in guesses]
    for i, each in enumerate(guesses):
        neighbours = (clear[i - 1] if i else None, clear[i + 1] if i + 1 < len(clear) else None)
        if clear[i] is None and each.language in neighbours:
            clear[i] = each.language
    return tuple(
        (before[-1].end + after[0].start) / 2
        for (before, after), (one, other) in zip(pairwise(stretches), pairwise(clear), strict=True)
        if one != other
    )


def split_at_pauses(regions: Sequence[SpeechRegion]) -> list[list[SpeechRegion]]:
    """Split speech at pauses into stretches with at least MIN_VOTE seconds of speech, if possible.

    A shorter stretch is joined to the neighbour across the shorter pause.
    """
    stretches: list[list[SpeechRegion]] = []
    for region in regions:
        if stretches and region.start - stretches[-1][-1].end < CHANGE_PAUSE:
            stretches[-1].append(region)
        else:
            stretches.append([region])
    while len(stretches) > 1:
        seconds = [sum(region.duration for region in stretch) for stretch in stretches]
        shortest = min(range(len(stretches)), key=seconds.__getitem__)
        if seconds[shortest] >= MIN_VOTE:
            break
        pauses = [after[0].start - before[-1].end for before, after in pairwise(stretches)]
        beside = [i for i in (shortest - 1, shortest) if 0 <= i < len(pauses)]
        first = min(beside, key=pauses.__getitem__)
        stretches[first : first + 2] = [stretches[first] + stretches[first + 1]]
    return stretches


def warn_of_other_language(requested: str, heard: LanguageGuess) -> list[str]:
    """Return a warning if the recording clearly sounds like another language than requested."""
    pair = {requested, heard.language}
    is_clear = heard.probability > CLEAR_LANGUAGE
    if not is_clear or any(pair <= alike for alike in ({requested}, *ALIKE)):
        return []
    other, name = LANGUAGES[heard.language].title(), LANGUAGES[requested].title()
    return [
        f"WRONG LANGUAGE? This was transcribed as {name}, as requested, but it sounds like {other} "
        f"(probability {heard.probability:.2f}), so the words may be translated or invented: "
        f"transcribe it again with the language {heard.language}, or without a language."
    ]
