"""WebVTT and SubRip. Speakers come from `<v Name>`, or from `Name:` at the start of a cue."""

import html
import re
from collections.abc import Iterator
from dataclasses import replace

from service.imports.text import clean_text, read_lines, seconds
from service.imports.turns import ImportedTurn

ARROW = re.compile(r"^\s*((?:\d+:)?\d+:\d{2}[.,]\d{1,3})\s*-->", re.M)
VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]*)>")
TAG = re.compile(r"</?[^>]*>")
POSITION = re.compile(r"\{\\[^}]*\}")  # {\an8}


def read_vtt(text: str) -> list[ImportedTurn]:
    turns: list[ImportedTurn] = []
    unnamed: list[tuple[float, str]] = []
    for start, lines in _cues(text):
        if not VOICE.search(lines):
            unnamed.append((start, html.unescape(TAG.sub("", lines))))
            continue
        pieces = VOICE.split(lines)  # before, name, text, name, text, ...
        for name, said in zip(pieces[1::2], pieces[2::2], strict=True):
            words = clean_text(html.unescape(TAG.sub("", said)))
            turns.append(ImportedTurn(html.unescape(name).strip() or None, words, start))
    if not unnamed:
        return turns
    return sorted([*turns, *_named_at_start(unnamed)], key=lambda turn: turn.start or 0.0)


def read_srt(text: str) -> list[ImportedTurn]:
    return _named_at_start(
        [(start, html.unescape(POSITION.sub("", TAG.sub("", said)))) for start, said in _cues(text)]
    )


def _cues(text: str) -> Iterator[tuple[float, str]]:
    """Yield the start of each cue and its lines. Other blocks, such as notes, have no arrow."""
    for block in re.split(r"\n\s*\n", text):
        match = ARROW.search(block)
        if match is not None:
            _, _, lines = block[match.end() :].partition("\n")
            yield seconds(match[1]), lines


def _named_at_start(cues: list[tuple[float, str]]) -> list[ImportedTurn]:
    """Cues whose speaker, if any, is written before a colon."""
    joined = [" ".join(lines.split()) for _, lines in cues]
    filled = [(start, line) for (start, _), line in zip(cues, joined, strict=True) if line]
    turns = read_lines([line for _, line in filled])
    return [replace(turn, start=start) for turn, (start, _) in zip(turns, filled, strict=True)]
