"""Aligns a transcript made or corrected elsewhere with the words of ours.

Words that are the same keep their times. Segments that are still there keep their ids.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from models.corrections import Change, Replacement
from models.retiming import Token, match_tokens, retime, tokenise
from models.speaker_names import is_code, names_of
from models.transcript import Segment, SpeakerName, Transcript, Word

NOBODY = "unknown"  # what exports call a segment without a speaker
MIN_MATCHED = 0.3  # share of the shorter text's words; with fewer it is another recording's
MARKS = str.maketrans("", "", "[]/")  # of overlaps


class AnotherRecording(Exception):
    """Hardly any word of the text is in the transcript."""


@dataclass(frozen=True)
class Turn:
    """One person's words in the imported text. `speaker`: None if the text does not say who."""

    speaker: str | None
    text: str
    start: float | None = None


@dataclass(frozen=True)
class Import:
    """The changes of an imported text.

    `unmatched`: numbers of the turns of which no word is in the transcript; their times are
    interpolated. `removed`: ids of segments of which no word is in the text.
    `labels`: of the text's speakers.
    """

    change: Change
    matched: float  # share of the text's words
    unmatched: tuple[int, ...]
    removed: tuple[str, ...]
    labels: Mapping[str, str | None]


@dataclass
class _Piece:
    """Words of one speaker that belong to one segment, or to none."""

    segment: int | None
    turn: int
    tokens: list[Token]


def align_import(
    transcript: Transcript, turns: Sequence[Turn], version: int | None = None
) -> Import:
    """Return the changes that make a transcript match an imported text.

    Args:
        version: that the change makes, from which the ids of new segments come; None: the next.

    Raises:
        AnotherRecording
    """
    old = [tokenise("".join(word.text for word in one.words)) for one in transcript.segments]
    new = [tokenise(turn.text) for turn in turns]
    flat_old = [(i, token) for i, tokens in enumerate(old) for token in tokens]
    flat_new = [(i, token) for i, tokens in enumerate(new) for token in tokens]
    pairs = match_tokens([token for _, token in flat_old], [token for _, token in flat_new])
    shorter = min(len(flat_old), len(flat_new))
    if not shorter or len(pairs) < MIN_MATCHED * shorter:
        raise AnotherRecording
    partners = {j: i for i, j in pairs}
    places = _assign(flat_old, flat_new, partners)
    kept = [_plain(token, partners.get(j), flat_old) for j, (_, token) in enumerate(flat_new)]
    pieces = _pieces(flat_new, kept, places, turns)
    labels = _find_labels(transcript, turns, pieces)
    number = transcript.version + 1 if version is None else version
    replacements = tuple(_replace(transcript, turns, pieces, labels, old, number))
    speakers = (*transcript.speakers, *_new_labels(transcript, labels))
    names = _name(transcript, labels)
    change = Change(
        "import",
        replacements,
        None if speakers == transcript.speakers else (transcript.speakers, speakers),
        None if names == dict(transcript.names) else (transcript.names, names),
    )
    placed = {piece.segment for piece in pieces}
    return Import(
        change,
        len(pairs) / len(flat_new),
        tuple(sorted({turn for turn, _ in flat_new} - {flat_new[j][0] for j in partners})),
        tuple(one.id for i, one in enumerate(transcript.segments) if i not in placed and old[i]),
        labels,
    )


def _plain(token: Token, partner: int | None, old: Sequence[tuple[int, Token]]) -> Token:
    """Return a token without the marks of overlaps that an export has put around the word."""
    if partner is None:
        return token
    before = old[partner][1].text
    return replace(token, text=before) if token.text.translate(MARKS) == before else token


def _assign(
    old: Sequence[tuple[int, Token]],
    new: Sequence[tuple[int, Token]],
    partners: Mapping[int, int],
) -> list[int | None]:
    """Return the segment that each new token belongs to; None for turns without a match.

    Between the words of two segments, the text replaces first what is gone from the end of the
    one, then what is gone from the start of the other. As many turns without a match as there are
    segments without one replace these.
    """
    places: list[int | None] = [
        old[partners[j]][0] if j in partners else None for j in range(len(new))
    ]
    matched_turns = {new[j][0] for j in partners}
    for is_gap, group in groupby(range(len(new)), key=lambda j: j not in partners):
        gap = list(group)
        if not is_gap:
            continue
        left, right = gap[0] - 1, gap[-1] + 1
        before = partners[left] if left >= 0 else -1
        after = partners[right] if right < len(new) else len(old)
        gone = [old[k][0] for k in range(before + 1, after)]
        first = old[before][0] if before >= 0 else None
        second = old[after][0] if after < len(old) else None
        n_first = sum(segment == first for segment in gone)
        gone_whole = [s for s in dict.fromkeys(gone) if s not in (first, second)]
        strange = [t for t in dict.fromkeys(new[j][0] for j in gap) if t not in matched_turns]
        replaced = (
            dict(zip(strange, gone_whole, strict=True)) if len(strange) == len(gone_whole) else {}
        )
        for k, j in enumerate(gap):
            turn = new[j][0]
            if turn not in matched_turns:
                places[j] = replaced.get(turn)
                continue
            with_left = first is not None and left >= 0 and new[left][0] == turn
            with_right = second is not None and right < len(new) and new[right][0] == turn
            if with_left and (not with_right or k < n_first or n_first == len(gone)):
                places[j] = first
            elif with_right:
                places[j] = second
    return places


def _pieces(
    new: Sequence[tuple[int, Token]],
    tokens: Sequence[Token],
    places: Sequence[int | None],
    turns: Sequence[Turn],
) -> list[_Piece]:
    pieces: list[_Piece] = []
    for (turn, _), token, place in zip(new, tokens, places, strict=True):
        last = pieces[-1] if pieces else None
        if (
            last is not None
            and last.segment == place
            and (last.turn == turn or (place is not None and _is_same(turns, last.turn, turn)))
        ):
            last.tokens.append(token)
        else:
            pieces.append(_Piece(place, turn, [token]))
    return pieces


def _is_same(turns: Sequence[Turn], one: int, other: int) -> bool:
    return turns[one].speaker == turns[other].speaker


# --- speakers -------------------------------------------------------------------------------------


def _find_labels(
    transcript: Transcript, turns: Sequence[Turn], pieces: Sequence[_Piece]
) -> dict[str, str | None]:
    """Return the label of each name in the text.

    A label or a name that the transcript shows is kept. Any other name gets the label of the
    speaker with the same words or, if that is taken, a new label.
    """
    shown = names_of(transcript.speakers, transcript.names)
    labels: dict[str, str | None] = {NOBODY: None}
    for label in reversed(transcript.speakers):
        labels[shown[label]] = labels[label] = label
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    used = list(dict.fromkeys(turn.speaker for turn in turns if turn.speaker is not None))
    for piece in pieces:
        name = turns[piece.turn].speaker
        if name is not None and name not in labels and piece.segment is not None:
            speaker = transcript.segments[piece.segment].speaker
            if speaker is not None:
                votes[name][speaker] += len(piece.tokens)
    taken = {labels[name] for name in used if name in labels}
    found: dict[str, str | None] = {name: labels[name] for name in used if name in labels}
    by_weight = sorted(
        ((n, name, label) for name, counts in votes.items() for label, n in counts.items()),
        key=lambda vote: -vote[0],
    )
    for _, name, label in by_weight:
        if name not in found and label not in taken:
            found[name] = label
            taken.add(label)
    n_labels = len(transcript.speakers)
    for name in used:
        if name not in found:
            found[name] = f"SPEAKER_{n_labels:02d}"
            n_labels += 1
    return found


def _new_labels(transcript: Transcript, labels: Mapping[str, str | None]) -> list[str]:
    return sorted({label for label in labels.values() if label} - set(transcript.speakers))


def _name(transcript: Transcript, labels: Mapping[str, str | None]) -> dict[str, SpeakerName]:
    """Return the names, with codes of the text for speakers who had none. Other names are not
    taken over: they may be people's own."""
    names = dict(transcript.names)
    for name, label in labels.items():
        if label is not None and is_code(name) and label not in names:
            names[label] = SpeakerName(code=name)
    return names


# --- segments -------------------------------------------------------------------------------------


def _replace(
    transcript: Transcript,
    turns: Sequence[Turn],
    pieces: Sequence[_Piece],
    labels: Mapping[str, str | None],
    old: Sequence[Sequence[Token]],
    version: int,
) -> Iterator[Replacement]:
    """Yield what replaces each segment that changes, in order; new ones go with the one before."""
    groups: dict[int, list[_Piece]] = defaultdict(list)
    latest = -1
    for piece in pieces:
        latest = latest if piece.segment is None else piece.segment
        groups[latest].append(piece)
    n_new = 0
    anchor: str | None = None
    reached = 0.0
    for i in range(-1, len(transcript.segments)):
        before = transcript.segments[i : i + 1] if i >= 0 else ()
        following = transcript.segments[i + 1 : i + 2]
        latest_start = following[0].start if following else max(transcript.duration, reached)
        if i >= 0 and not old[i]:
            after: list[Segment] = [*before]  # exports leave out segments without words
            after += _added(groups[i], turns, labels, before[0].end, latest_start)
        elif i >= 0:
            after = _rewritten(before[0], groups[i], turns, labels, latest_start)
        else:
            after = _added(groups[i], turns, labels, 0.0, latest_start)
        numbered = []
        for segment in after:
            if not segment.id:
                n_new += 1
                segment = replace(segment, id=f"c{version}.{n_new}")
            numbered.append(segment)
        if tuple(numbered) != before:
            yield Replacement(anchor, before, tuple(numbered))
        if numbered:
            anchor = numbered[-1].id
            reached = max(reached, numbered[-1].end)


def _rewritten(
    segment: Segment,
    pieces: Sequence[_Piece],
    turns: Sequence[Turn],
    labels: Mapping[str, str | None],
    latest: float,
) -> list[Segment]:
    """Return what replaces a segment: itself, its parts or nothing, and new segments among them."""
    own = [piece for piece in pieces if piece.segment is not None]
    words = _distribute(segment, own)
    made: list[Segment] = []
    for number, piece in enumerate(pieces):
        if piece.segment is None:
            start = made[-1].end if made else segment.end
            later = [w[0].start for p, w in words if w and p in pieces[number:]]
            made += _added([piece], turns, labels, start, min([latest, *later]))
            continue
        said = next(w for p, w in words if p is piece)
        if not said:
            continue
        is_first = piece is own[0]
        name = turns[piece.turn].speaker
        speaker = segment.speaker if name is None else labels[name]
        start = segment.start if is_first else min(max(said[0].start, segment.start), segment.end)
        is_last = piece is own[-1]
        end = segment.end if is_last else max(word.end for word in said)
        part = Segment(speaker, start, max(end, start), said, segment.id if is_first else "")
        unchanged = (part.speaker, part.words) == (segment.speaker, segment.words)
        made.append(replace(part, checked_by=segment.checked_by if unchanged else None))
    return made


def _distribute(
    segment: Segment, pieces: Sequence[_Piece]
) -> list[tuple[_Piece, tuple[Word, ...]]]:
    """Return the words of each piece of a segment, aligned with the segment's own."""
    texts = [_join(piece.tokens) for piece in pieces]
    words = retime(segment.words, " ".join(texts), segment.start, segment.end)
    if len(pieces) == 1:
        return [(pieces[0], words)]
    shared = []
    n_used = length = 0
    for piece, text in zip(pieces, texts, strict=True):
        wanted, begin = len("".join(text.split())), n_used
        while n_used < len(words) and length < wanted:
            length += len("".join(words[n_used].text.split()))
            n_used += 1
        length -= wanted
        shared.append((piece, words[begin:n_used]))
    return shared


def _added(
    pieces: Sequence[_Piece],
    turns: Sequence[Turn],
    labels: Mapping[str, str | None],
    earliest: float,
    latest: float,
) -> list[Segment]:
    """Return new segments, one after another between two times."""
    added = [piece for piece in pieces if piece.segment is None]
    earliest = min(earliest, latest)
    step = (latest - earliest) / max(len(added), 1)
    made = []
    for number, piece in enumerate(added):
        turn = turns[piece.turn]
        start = round(earliest + number * step, 3) if number else earliest
        end = latest if number + 1 == len(added) else round(earliest + (number + 1) * step, 3)
        start, end = min(start, latest), min(max(start, end), latest)
        speaker = None if turn.speaker is None else labels[turn.speaker]
        words = retime((), _join(piece.tokens), start, end)
        made.append(Segment(speaker, start, end, words))
    return made


def _join(tokens: Sequence[Token]) -> str:
    return "".join(f" {t.text}" if t.is_spaced else t.text for t in tokens).strip()
