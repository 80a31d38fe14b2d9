"""Aligns a corrected text with the words that it replaces.

Words that the correction does not touch keep exactly their times and probabilities. New words get
interpolated times and no probability.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import accumulate, pairwise

from models.transcript import Word, mean_probability, text_of

# Scripts that are written without spaces between words: Thai, Lao, Burmese, Khmer, Chinese and
# Japanese, with their punctuation. Each character counts as a token.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff9f\U00020000-\U0003fffd]"
)
STRAIGHT = str.maketrans("‘’‚‛“”„‟′″", "''''\"\"\"\"'\"")  # one character for one
SHORT = 40_000  # product of the two lengths that difflib aligns in milliseconds
LONGEST_PHRASE = 4  # words
MIN_GAP = 0.02  # s; a shorter gap between two words has no room for another


@dataclass(frozen=True)
class Token:
    """A written word with its punctuation, or a character of a script without spaces."""

    text: str
    start: int  # in the text, in code points
    end: int
    is_spaced: bool  # after white space, or at the start of the text

    @property
    def key(self) -> str:
        return normal_form(self.text)


def tokenise(text: str) -> list[Token]:
    tokens: list[Token] = []
    for run in re.finditer(r"\S+", text):
        start = run.start()
        for i, piece in enumerate(_split_run(run[0])):
            tokens.append(Token(piece, start, start + len(piece), i == 0))
            start += len(piece)
    return tokens


def _split_run(run: str) -> Iterator[str]:
    """Split a run without white space: each character of an unspaced script is a piece."""
    if not UNSPACED.search(run):
        yield run
        return
    piece, was_unspaced = "", False
    for character in run:
        is_mark = unicodedata.category(character).startswith("M")
        is_unspaced = UNSPACED.match(character) is not None
        if piece and not is_mark and (was_unspaced or is_unspaced):
            yield piece
            piece = ""
        piece += character
        was_unspaced = is_unspaced or (is_mark and was_unspaced)
    yield piece


@lru_cache(maxsize=1 << 15)
def normal_form(text: str) -> str:
    """Return a word without case, quotes and punctuation, to compare spellings."""
    plain = unicodedata.normalize("NFC", text).translate(STRAIGHT).casefold()
    start, end = 0, len(plain)
    while start < end and _is_punctuation(plain[start]):
        start += 1
    while end > start and _is_punctuation(plain[end - 1]):
        end -= 1
    return plain[start:end] or plain


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PSZC"


@dataclass(frozen=True)
class _Cluster:
    """The smallest group of words made of whole tokens: `peer` and `-led` are one token."""

    words: tuple[Word, ...]
    tokens: tuple[Token, ...]

    @property
    def text(self) -> str:
        return " ".join(text_of(self.words).split())


def retime(words: Sequence[Word], text: str, start: float, end: float) -> tuple[Word, ...]:
    """Return the words of a corrected text.

    Args:
        words: the words that the text replaces, in order.
        text: white space in it counts as one space.
        start, end: of the segment; new words lie within it.
    """
    text = " ".join(text.split())
    if text == " ".join(text_of(words).split()):
        return tuple(words)
    old, new = _clusters(words), tokenise(text)
    leading = words[0].text[:1].isspace() if words else bool(new) and not _is_unspaced(new[0])
    made: list[Word] = []
    old_index = new_index = 0
    for i, j in [*_kept(old, new), (len(old), len(new))]:
        following = old[i].words[0] if i < len(old) else None
        changed = new[new_index:j]
        spans = _place(old[old_index:i], changed, made[-1] if made else None, following, start, end)
        for token, (begin, stop) in zip(changed, spans, strict=True):
            made.append(Word(_spaced(token, leading, not made), begin, stop, None, placed=True))
        if i < len(old):
            n_tokens = len(old[i].tokens)
            made += _keep(old[i], new[j : j + n_tokens], text, is_first=not made)
            old_index, new_index = i + 1, j + n_tokens
    return tuple(made)


def _is_unspaced(token: Token) -> bool:
    return UNSPACED.match(token.text) is not None


def _spaced(token: Token, leading: bool, is_first: bool) -> str:
    return f" {token.text}" if (leading if is_first else token.is_spaced) else token.text


def _clusters(words: Sequence[Word]) -> list[_Cluster]:
    tokens = tokenise("".join(word.text for word in words))
    token_starts = [token.start for token in tokens]
    clusters: list[_Cluster] = []
    pending: list[Word] = []
    n_used = 0
    for word, end in zip(words, accumulate(len(word.text) for word in words), strict=True):
        pending.append(word)
        i = bisect_right(token_starts, end - 1)  # tokens that begin in the words so far
        if i > n_used and tokens[i - 1].end <= end:
            clusters.append(_Cluster(tuple(pending), tuple(tokens[n_used:i])))
            pending, n_used = [], i
    if pending and clusters:  # words without text
        clusters[-1] = replace(clusters[-1], words=(*clusters[-1].words, *pending))
    return clusters


def _kept(old: Sequence[_Cluster], new: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Yield the clusters that the new text still has, each with the index of its first token."""
    partners = dict(match_tokens([token for cluster in old for token in cluster.tokens], new))
    first = 0
    for i, cluster in enumerate(old):
        n = len(cluster.tokens)
        found = [partners.get(first + k) for k in range(n)]
        if found[0] is not None and found == list(range(found[0], found[0] + n)):
            yield i, found[0]
        first += n


def match_tokens(a: Sequence[Token], b: Sequence[Token]) -> list[tuple[int, int]]:
    """Align two texts: return the pairs of tokens that are the same word, in order.

    A common beginning and a common end are aligned with each other only.
    """
    shorter, head, tail = min(len(a), len(b)), 0, 0
    while head < shorter and a[head].text == b[head].text:
        head += 1
    while tail < shorter - head and a[-1 - tail].text == b[-1 - tail].text:
        tail += 1
    middle = match_keys(
        [token.key for token in a[head : len(a) - tail]],
        [token.key for token in b[head : len(b) - tail]],
    )
    return [
        *((i, i) for i in range(head)),
        *((head + i, head + j) for i, j in middle),
        *((len(a) - tail + i, len(b) - tail + i) for i in range(tail)),
    ]


def match_keys(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of equal items, in order, that align two sequences.

    Long ones are first divided at phrases that occur once in each, because difflib's time grows
    with the product of their lengths. Its own remedy ignores frequent words.

    Source: Bram Cohen's patience diff.
    """
    pairs: list[tuple[int, int]] = []
    for (a_start, a_end), (b_start, b_end) in _divide(a, b):
        part_a, part_b = a[a_start:a_end], b[b_start:b_end]
        blocks = SequenceMatcher(None, part_a, part_b, autojunk=False).get_matching_blocks()
        pairs += [(a_start + i + k, b_start + j + k) for i, j, n in blocks for k in range(n)]
    return pairs


Span = tuple[int, int]


def _divide(a: Sequence[str], b: Sequence[str]) -> Iterator[tuple[Span, Span]]:
    """Yield stretches of two sequences, in order, that are aligned on their own."""
    stack = [((0, len(a)), (0, len(b)), LONGEST_PHRASE)]
    while stack:
        (a_start, a_end), (b_start, b_end), n = stack.pop()
        if n == 0 or (a_end - a_start) * (b_end - b_start) <= SHORT:
            yield (a_start, a_end), (b_start, b_end)
            continue
        anchors = _anchors(a[a_start:a_end], b[b_start:b_end], n)
        parts, i, j = [], a_start, b_start
        for a_at, b_at in anchors:
            parts.append(((i, a_start + a_at), (j, b_start + b_at), n - 1))
            i, j = a_start + a_at, b_start + b_at
        parts.append(((i, a_end), (j, b_end), n - 1))
        stack += reversed(parts)


def _anchors(a: Sequence[str], b: Sequence[str], n: int) -> list[tuple[int, int]]:
    """Return the places of phrases of `n` items that occur once in each, in the same order."""
    places = [_unique_phrases(each, n) for each in (a, b)]
    common = sorted(
        (i, places[1][phrase]) for phrase, i in places[0].items() if phrase in places[1]
    )
    ends: list[int] = []  # of the best chain of each length: its last place in b
    last: list[int] = []  # the pair there
    before: list[int] = []  # the pair before each in its chain, or -1
    for k, (_, j) in enumerate(common):
        at = bisect_left(ends, j)
        before.append(last[at - 1] if at else -1)
        ends[at : at + 1], last[at : at + 1] = [j], [k]
    chain, k = [], last[-1] if last else -1
    while k >= 0:
        chain.append(common[k])
        k = before[k]
    return chain[::-1]


def _unique_phrases(items: Sequence[str], n: int) -> dict[tuple[str, ...], int]:
    phrases = [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]
    counts = Counter(phrases)
    return {phrase: i for i, phrase in enumerate(phrases) if counts[phrase] == 1}


def _keep(
    cluster: _Cluster, tokens: Sequence[Token], text: str, *, is_first: bool
) -> Sequence[Word]:
    """Return the words of a cluster; its case, punctuation and space follow the new text."""
    words = cluster.words
    written = text[tokens[0].start : tokens[-1].end]
    if written != cluster.text:
        words = _rewrite(words, written)
    if is_first:
        return words
    core, is_spaced = words[0].text.lstrip(), words[0].text[:1].isspace()
    if is_spaced == tokens[0].is_spaced:
        return words
    return (replace(words[0], text=f" {core}" if tokens[0].is_spaced else core), *words[1:])


def _rewrite(words: Sequence[Word], written: str) -> tuple[Word, ...]:
    """Return the words of a cluster in a new spelling, with their times and probabilities.

    If the spelling does not show where one word ends, they become one word.
    """
    lead = " " if words[0].text[:1].isspace() else ""
    rest, made = written, list[Word]()
    for i, word in enumerate(words):
        core = word.text.strip()
        if _fold(rest[: len(core)]) == _fold(core):
            made.append(replace(word, text=word.text.replace(core, rest[: len(core)])))
            rest = rest[len(core) :]
        elif made and all(map(_is_punctuation, "".join(each.text for each in words[i:]))):
            break
        else:
            end = max(each.end for each in words)
            placed = any(each.placed for each in words)
            probability = mean_probability(words)
            return (Word(lead + written, words[0].start, end, probability, placed),)
    made[-1] = replace(made[-1], text=made[-1].text + rest)
    return tuple(made)


def _fold(text: str) -> str:
    return text.translate(STRAIGHT).casefold()


def _place(
    old: Sequence[_Cluster],
    new: Sequence[Token],
    before: Word | None,
    after: Word | None,
    start: float,
    end: float,
) -> list[tuple[float, float]]:
    """Return the interval of each new token.

    Args:
        old: what the tokens replace; empty if they were inserted.
        before, after: the neighbours, which are not moved.
        start, end: of the segment.
    """
    if not new:
        return []
    if old and len(old) == len(new):
        return [(one.words[0].start, max(word.end for word in one.words)) for one in old]
    if old:
        words = [word for cluster in old for word in cluster.words]
        low, high = words[0].start, max(word.end for word in words)
    else:
        low = start if before is None else before.end
        high = end if after is None else after.start
        if high - low < MIN_GAP * len(new):  # no gap: share the interval of a neighbour
            if before is not None:
                low, high = (before.start + before.end) / 2, before.end
            elif after is not None:
                low, high = start, (after.start + after.end) / 2
    earliest = start if before is None else max(start, before.start)
    latest = end if after is None else min(end, after.start)
    total = sum(len(token.text) for token in new)
    intervals, done = [], 0
    for token in new:
        begin = low + (high - low) * done / total
        done += len(token.text)
        stop = low + (high - low) * done / total
        begin = min(max(round(begin, 3), earliest), latest)
        intervals.append((begin, min(max(round(stop, 3), begin), max(end, begin))))
    return intervals


def merge_texts(base: str, theirs: str, mine: str) -> str | None:
    """Merge two corrections of one text, word by word; None where they touch the same words."""
    old = tokenise(base)
    edits = sorted({*_edits(old, theirs), *_edits(old, mine)})
    if any(second[0] <= first[1] for first, second in pairwise(edits)):
        return None
    pieces, done = list[str](), 0
    for start, end, written in edits:
        pieces += [_with_space(token) for token in old[done:start]]
        pieces.append(written)
        done = end
    pieces += [_with_space(token) for token in old[done:]]
    return " ".join("".join(pieces).split())


def _edits(old: Sequence[Token], text: str) -> list[tuple[int, int, str]]:
    """Return a text's changes: the tokens [first, last) of each and their replacement."""
    new = tokenise(text)
    matcher = SequenceMatcher(
        None, [token.text for token in old], [token.text for token in new], autojunk=False
    )
    return [
        (i, j, "".join(map(_with_space, new[k:m])))
        for kind, i, j, k, m in matcher.get_opcodes()
        if kind != "equal"
    ]


def _with_space(token: Token) -> str:
    return f" {token.text}" if token.is_spaced else token.text
