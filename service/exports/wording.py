"""Changes to the words before a transcript is exported: cleaning, pauses, overlaps, punctuation.

Each function takes and returns a transcript; words keep their times.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from models.transcript import Overlap, Segment, Transcript, Word
from service.exports.options import ExportOptions, Notation, Wording
from service.exports.overlap_index import OverlapIndex


def apply(transcript: Transcript, options: ExportOptions, notation: Notation) -> Transcript:
    """The transcript with the words that the options ask for."""
    if options.wording == Wording.CLEAN:
        transcript = clean(transcript)
    if options.punctuation is not None:
        transcript = with_punctuation(transcript, options.punctuation)
    if options.overlaps and transcript.overlaps:
        transcript = with_overlaps(transcript, notation)
    if options.pauses is not None:
        transcript = with_pauses(transcript, options.pauses, notation)
    return transcript


def _map_words(transcript: Transcript, change: Callable[[Segment], Sequence[Word]]) -> Transcript:
    segments = (replace(segment, words=tuple(change(segment))) for segment in transcript.segments)
    return replace(transcript, segments=tuple(segments))


# --- hesitations and false starts -----------------------------------------------------------------

# Sounds that carry no meaning. Answers such as `mhm` and `uh-huh` are data and stay.
HESITATIONS = {
    "en": r"u+h+|u+m+|e+r+m*|a+h+m+|h+m{2,}",
    "de": r"ä+h*|ä+h*m+|ö+h*m*|e+h+m+|h+m{2,}",
    "fr": r"e+u+h+|h+e+u+|b+e+u+h+|h+m{2,}",
    "es": r"e+h+|e+h*m+|e{2,}|h+m{2,}",
    "it": r"e+h+|e+h*m+|h+m{2,}",
    "pt": r"é{2,}|e+h+|h+u+m+|h+m{2,}",
    "nl": r"e+h+m*|u+h+m*|h+m{2,}",
    "sv": r"ö+h*m*|e+h+m*|h+m{2,}",
}
DEFAULT_HESITATIONS = r"u+h+m*|e+h+m+|ä+h+m*|h+m{2,}"
# A repetition without one of these may be intended: very very, no no, a telephone number.
FUNCTION_WORDS = {
    "en": "i you he she it we they me him her us them my your his its our their a an the this "
    "these those and but or if because when to of in on at for with from by as is am are "
    "was were be been do does did have has can could will would should i'm it's i'd i've "
    "you're we're they're there where what who how which",
    "de": "ich du er sie es wir ihr mich dich ihn uns euch mir dir ihm mein dein sein unser ein "
    "eine einen einem einer den dem des und aber oder wenn weil dass ob zu von in im an "
    "am auf für mit bei aus nach ist bin bist sind war waren habe hat hatte kann wird "
    "würde wie was wer wo",
    "fr": "je j' tu il elle on ils elles me te se mon ma mes ton ta son sa un une le la les l' "
    "du des de d' et mais ou si que qui quand parce à au aux en dans sur pour par avec "
    "est suis sont était étais ai a avait c'est c'était j'ai j'étais",
    "es": "yo tú él ella nosotros ellos me te se le lo la los las un una el de del y pero o si "
    "que quien cuando porque a al en con por para es soy son era fue he ha había está mi "
    "tu su",
    "it": "io tu lui lei noi loro mi ti si ci il lo la i gli le un una di del della e ma o se "
    "che chi quando perché a al in con per da è sono era ho ha aveva mio mia",
    "pt": "eu tu ele ela nós eles me te se o a os as um uma de do da e mas ou que quem quando "
    "porque em no na com por para é sou são era foi tenho tem tinha meu minha",
    "nl": "ik jij je hij zij ze het wij we jullie mij me hem haar ons mijn jouw zijn een de en "
    "maar of als dat omdat te van in op aan voor met bij uit is ben bent was waren heb "
    "heeft had kan zal",
    "sv": "jag du han hon den det vi ni de mig dig honom henne oss min din sin en ett och men "
    "eller om att som när för på i till av med från är var har hade kan ska",
}
MAX_REPEATED = 3  # words of a false start that is said again
_EDGES = re.compile(r"^\W+|\W+$")
_FINAL = re.compile(r"[.!?…。！？؟]+[\"'”’»)]*$")


def clean(transcript: Transcript) -> Transcript:
    """Leave out hesitations, cut-off words and words said twice in a row.

    A segment that consists of nothing else is kept as it is: no turn disappears.
    """
    pattern = HESITATIONS.get(transcript.language, DEFAULT_HESITATIONS)
    is_said_again = _is_said_again_in(FUNCTION_WORDS.get(transcript.language, ""))
    is_hesitation = re.compile(pattern, re.IGNORECASE).fullmatch

    def cleaned(segment: Segment) -> Sequence[Word]:
        kept = list(segment.words)
        kept = _without(kept, lambda i, bare: bool(is_hesitation(bare[i])))
        kept = _without(kept, _is_cut_off_at(kept))
        kept = _without(kept, is_said_again)
        return kept or segment.words

    return _map_words(transcript, cleaned)


def _bare(word: Word) -> str:
    return _EDGES.sub("", word.text).casefold()


def _without(words: list[Word], is_dropped: Callable[[int, list[str]], bool]) -> list[Word]:
    """The words that stay; punctuation and capitals of dropped words pass to their neighbours."""
    bare = [_bare(word) for word in words]
    kept: list[Word] = []
    capital = False
    for i, word in enumerate(words):
        if bare[i] and is_dropped(i, bare):
            stripped = word.text.strip()
            capital = capital or stripped[:1].isupper() and (not kept or _ends(kept[-1]))
            final = _FINAL.search(stripped)
            if final and kept and not _ends(kept[-1]):
                kept[-1] = _with_text(kept[-1], kept[-1].text.rstrip(",;") + final[0])
            elif stripped.endswith(",") and kept and kept[-1].text.endswith(","):
                kept[-1] = _with_text(kept[-1], kept[-1].text[:-1])  # I was, um, tired
            continue
        if capital:
            lead = len(word.text) - len(word.text.lstrip())
            text = word.text[:lead] + word.text[lead : lead + 1].upper() + word.text[lead + 1 :]
            word, capital = _with_text(word, text), False
        kept.append(word)
    return kept


def _with_text(word: Word, text: str) -> Word:
    return replace(word, text=text)


def _ends(word: Word) -> bool:
    return bool(_FINAL.search(word.text.strip()))


def _is_cut_off_at(words: Sequence[Word]) -> Callable[[int, list[str]], bool]:
    """`w- went`, `hos- hospital`: a word that ends in a hyphen and begins the next word."""

    def is_cut_off(i: int, bare: list[str]) -> bool:
        text = words[i].text.strip().rstrip(",.…")
        follows = bare[i + 1] if i + 1 < len(bare) and words[i + 1].text[:1].isspace() else ""
        return text.endswith(("-", "–", "—")) and bool(follows) and follows.startswith(bare[i])

    return is_cut_off


def _is_said_again_in(function_words: str) -> Callable[[int, list[str]], bool]:
    """`I was I was tired`: a phrase with a function word that is repeated at once."""
    known = frozenset(function_words.split())

    def is_said_again(i: int, bare: list[str]) -> bool:
        for length in range(1, MAX_REPEATED + 1):
            for first in range(max(0, i - length + 1), i + 1):
                phrase = bare[first : first + length]
                if phrase == bare[first + length : first + 2 * length] and known & set(phrase):
                    return all(phrase)
        return False

    return is_said_again


# --- pauses and overlaps --------------------------------------------------------------------------


def find_pauses(transcript: Transcript, shortest: float) -> list[tuple[float, float]]:
    """Stretches of at least this many seconds in which nobody speaks, between two turns.

    From the turns, because the times of Whisper's words reach into the silence beside them.
    """
    turns = sorted((turn.start, turn.end) for turn in transcript.turns)
    pauses, reached = [], turns[0][1] if turns else 0.0
    for start, end in turns:
        if start - reached >= shortest:
            pauses.append((reached, start))
        reached = max(reached, end)
    return pauses


def with_pauses(transcript: Transcript, shortest: float, notation: Notation) -> Transcript:
    """A mark after the last word before each pause."""
    pauses = find_pauses(transcript, shortest)
    places = [  # each word is placed by its middle
        ((word.start + word.end) / 2, i, j)
        for i, segment in enumerate(transcript.segments)
        for j, word in enumerate(segment.words)
    ]
    places.sort()
    middles = [place[0] for place in places]
    marks: dict[int, dict[int, str]] = {}
    for start, end in pauses:
        at = bisect_right(middles, (start + end) / 2) - 1
        if at >= 0:
            _, i, j = places[at]
            marks.setdefault(i, {})[j] = pause_mark(end - start, notation)
    segments = list(transcript.segments)
    for i, by_word in marks.items():
        words = (
            _with_text(word, f"{word.text} {by_word[j]}") if j in by_word else word
            for j, word in enumerate(segments[i].words)
        )
        segments[i] = replace(segments[i], words=tuple(words))
    return replace(transcript, segments=tuple(segments))


def pause_mark(seconds: float, notation: Notation) -> str:
    if notation == Notation.JEFFERSON:
        return f"({seconds:.1f})"
    if notation == Notation.DRESING_PEHL:
        whole = max(1, round(seconds))
        return f"({'.' * whole})" if whole <= 3 else f"({whole})"
    return f"[pause of {seconds:.0f} s]"


OVERLAP_MARKS = {
    Notation.NOTES: ("", ""),
    Notation.JEFFERSON: ("[", "]"),
    Notation.DRESING_PEHL: ("//", "//"),
}


def with_overlaps(transcript: Transcript, notation: Notation) -> Transcript:
    """Marks around the words that a speaker says while others speak, or a note after the segment.

    A note also names the speakers whose words in the overlap are missing.
    """
    before, after = OVERLAP_MARKS[notation]
    index = OverlapIndex(transcript.overlaps)

    def marked(segment: Segment) -> Sequence[Word]:
        during = index.during(segment.start, segment.end)
        if not during or not segment.words:
            return segment.words
        texts = [word.text for word in segment.words]
        inside = [
            any(each.start <= (word.start + word.end) / 2 < each.end for each in during)
            for word in segment.words
        ]
        for i, is_inside in enumerate(inside):
            if is_inside and (i == 0 or not inside[i - 1]):
                lead = len(texts[i]) - len(texts[i].lstrip())
                texts[i] = texts[i][:lead] + before + texts[i][lead:]
            if is_inside and (i + 1 == len(inside) or not inside[i + 1]):
                texts[i] += after
        texts[-1] += _overlap_note(segment, during, notation)
        return list(map(_with_text, segment.words, texts))

    return _map_words(transcript, marked)


def _overlap_note(segment: Segment, during: Sequence[Overlap], notation: Notation) -> str:
    """` [overlap with SPEAKER_01]`; if marks show that already, only whose words are missing."""
    others = {speaker for overlap in during for speaker in overlap.speakers} - {segment.speaker}
    unheard = {speaker for overlap in during for speaker in overlap.unheard} - {segment.speaker}
    if notation != Notation.NOTES:
        return "".join(f" [{speaker} speaks too]" for speaker in sorted(unheard))
    if not others:
        return ""
    missing = f"; no words of {', '.join(sorted(unheard))}" if unheard else ""
    return f" [overlap with {', '.join(sorted(others))}{missing}]"


# --- punctuation of another language --------------------------------------------------------------

# Opening and closing quotation marks, and what replaces , ; : ? ! .
QUOTES = {
    "en": "“”",
    "de": "„“",
    "fr": "«»",
    "es": "«»",
    "it": "«»",
    "pt": "“”",
    "ru": "«»",
    "pl": "„”",
    "nl": "“”",
    "sv": "””",
    "zh": "“”",
    "ja": "「」",
    "ar": "«»",
}
MARKS: dict[str, dict[int, int]] = {
    "zh": str.maketrans(",;:?!.", "，；：？！。"),
    "ja": str.maketrans(",;:?!.", "、；：？！。"),
    "ar": str.maketrans(",;?", "،؛؟"),
    "fa": str.maketrans(",;?", "،؛؟"),
    "ur": str.maketrans(",;?.", "،؛؟۔"),
}
TO_LATIN = str.maketrans("，；：？！。、،؛؟۔", ",;:?!.,,;?.")
_TRAILING = re.compile(r"[,;:?!.，；：？！。、،؛؟۔…]+(?=[\"'”’»」)]*$)")
NO_BREAK, NARROW_NO_BREAK = "\u00a0", "\u202f"  # before : and before ; ? ! in French
_ANY_QUOTE = re.compile(r"[\"“”„«»「」]")


def with_punctuation(transcript: Transcript, language: str) -> Transcript:
    """Punctuation marks as this language writes them.

    Only marks at the end of a word change, so that 3.5 and 10:30 stay.
    """
    quotes = QUOTES.get(language, QUOTES["en"])
    marks = MARKS.get(language, {})

    def rewritten(segment: Segment) -> Iterator[Word]:
        is_open = False
        for word in segment.words:
            text = _TRAILING.sub(lambda found: _mark(found[0], marks, language), word.text)
            pieces = []
            for character in text:
                if _ANY_QUOTE.match(character):
                    is_open = not is_open
                    character = quotes[0] if is_open else quotes[1]
                    if language == "fr":
                        character = f"«{NO_BREAK}" if is_open else f"{NO_BREAK}»"
                pieces.append(character)
            yield _with_text(word, "".join(pieces))

    return _map_words(transcript, lambda segment: list(rewritten(segment)))


def _mark(found: str, marks: Mapping[int, int], language: str) -> str:
    text = found.translate(TO_LATIN).translate(marks)
    if language == "fr" and text[0] in "?!;:":
        return (NO_BREAK if text[0] == ":" else NARROW_NO_BREAK) + text
    return text


# --- characters -----------------------------------------------------------------------------------

# Characters that XML 1.0 forbids (section 2.2) or that programs treat as the end of a line or file.
# All but spaces that join words.
_SPACES = re.compile(
    "[ \t\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+"
)  # all but spaces that join words
_FORBIDDEN = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def one_line(text: str) -> str:
    """The text without line breaks, tabs and characters that no format can hold."""
    return _SPACES.sub(" ", _FORBIDDEN.sub("", text)).strip(" ")


def is_right_to_left(text: str) -> bool:
    """Whether the first letter of a text belongs to a script that is written right to left."""
    for character in text:
        direction = unicodedata.bidirectional(character)
        if direction in ("L", "R", "AL"):
            return direction != "L"
    return False
