"""Hand-made references, and the manifest that lists them.

    # one line per recording: the audio, its reference files, its options
    INT-01.wav INT-01.stm INT-01.rttm speakers=2 language=en group=interviews
    "FG 1.m4a" FG-1.corrected.json speakers=6 group=focus-groups

Paths are relative to the manifest. A reference is one of

    .stm   who said what, one utterance per line
    .ctm   words with times
    .rttm  turns: who spoke when
    .json  a corrected Fieldscribe transcript
    .txt   what is said, as plain text; empty if nobody speaks

A folder needs no manifest: a recording's references lie beside it and have its name, or SOURCES.tsv
gives its text.

    file	group	language	reference
    jfk.flac	read	en	and so my fellow Americans ask not what your country can do for you

Sources: NIST SCTK, doc/infmts.htm (STM, CTM); NIST RT-09 evaluation plan, appendix A (RTTM).
"""

import csv
import math
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from models.attribution import attribute_by_turns, split_sentences
from models.metrics import Spoken, TimedText
from models.options import Channels
from models.transcript import SCHEMA, Transcript, Turn, Word, text_of
from models.transcript_json import from_json

ENDINGS = (".stm", ".ctm", ".rttm", ".json", ".txt")
AUDIO_ENDINGS = (".flac", ".wav", ".mp3", ".m4a", ".ogg", ".opus", ".mp4", ".aac", ".wma")
SOURCES = "SOURCES.tsv"
OPTIONS = ("speakers", "language", "channels", "group")
ALTERNATIVES = re.compile(r"\{[^}]*\s/\s[^}]*\}")  # of STM: { colour / color }
NOT_SCORED = ("ignore_time_segment_in_scoring", "inter_segment_gap", "excluded_region")


class BadReference(ValueError):
    """A manifest or reference is unusable; the message names the file and the line."""


@dataclass(frozen=True)
class Annotation:
    """The reference of a recording, or our hypothesis. Parts that are not given are empty."""

    utterances: tuple[Spoken, ...] = ()
    words: tuple[TimedText, ...] = ()
    turns: tuple[Turn, ...] = ()
    text: str = ""  # where it is known without times

    @property
    def n_speakers(self) -> int:
        return len({turn.speaker for turn in self.turns})


@dataclass(frozen=True)
class ManifestEntry:
    """One line of a manifest, or one recording of a folder.

    `text`: what is said, if no file holds it.
    """

    audio: Path
    references: tuple[Path, ...]
    options: dict[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def group(self) -> str:
        return self.options.get("group", "recordings")


def read_manifest(path: Path) -> list[ManifestEntry]:
    """
    Raises:
        BadReference
    """
    entries = []
    for number, line in _read_lines(path):
        try:
            tokens = shlex.split(line, comments=True)
        except ValueError as error:
            raise BadReference(f"{path}, line {number}: {error}") from None
        if tokens:
            entries.append(_parse_entry(tokens, path, number))
    if not entries:
        raise BadReference(f"{path} lists no recording: add a line per recording")
    return entries


def _parse_entry(tokens: Sequence[str], manifest: Path, number: int) -> ManifestEntry:
    options = dict(token.split("=", 1) for token in tokens if re.match(r"[a-z]+=", token))
    paths = [manifest.parent / token for token in tokens if not re.match(r"[a-z]+=", token)]
    where = f"{manifest}, line {number}"
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise BadReference(
            f"{where}: unknown option {unknown[0]}=; the options are {', '.join(OPTIONS)}"
        )
    if options.get("channels", "auto") not in list(Channels):
        raise BadReference(f"{where}: channels= must be auto, mix or split")
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise BadReference(f"{where}: there is no file {missing[0]}")
    wrong = [path for path in paths[1:] if path.suffix not in ENDINGS]
    if wrong:
        raise BadReference(f"{where}: {wrong[0].name} must be one of {', '.join(ENDINGS)}")
    if len(paths) < 2:
        raise BadReference(f"{where}: a line needs a recording and at least one reference")
    return ManifestEntry(paths[0], tuple(paths[1:]), options)


def read_folder(folder: Path) -> list[ManifestEntry]:
    """The recordings in a folder and its subfolders that have a reference.

    Raises:
        BadReference
    """
    listed = {row["file"]: row for row in _read_sources(folder / SOURCES)}
    entries = []
    shared = list(_read_shared(folder))
    for audio in sorted(path for path in folder.rglob("*") if path.suffix in AUDIO_ENDINGS):
        references = [audio.with_suffix(ending) for ending in ENDINGS]
        found = tuple(path for path in references if path.is_file() and _is_reference(path))
        found += tuple(path for path, names in shared if audio.stem in names and path not in found)
        row = listed.get(audio.name)
        if found or row:
            options = {name: row[name] for name in OPTIONS if row.get(name)} if row else {}
            entries.append(ManifestEntry(audio, found, options, row["reference"] if row else ""))
    if not entries:
        raise BadReference(
            f"{folder} holds no recording with a reference: see scripts/references.py"
        )
    return entries


def _is_reference(path: Path) -> bool:
    """Other programs write .json files beside recordings, too."""
    return path.suffix != ".json" or SCHEMA in path.read_text(encoding="utf-8", errors="replace")


def _read_shared(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """Yield the references that name several recordings, with these names."""
    for ending, column, fewest in ((".rttm", 1, 8), (".stm", 0, 5)):
        for path in sorted(folder.rglob(f"*{ending}")):
            names = {fields[1 + column] for fields in _read_fields(path, fewest)}
            if len(names) > 1:
                yield path, names


def _read_sources(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    lines = [line for _, line in _read_lines(path)]
    rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, row in enumerate(rows, start=2):
        if not row.get("file") or row.get("reference") is None:
            raise BadReference(f"{path}, line {number}: it needs the columns file and reference")
    return rows


def read_entry(entry: ManifestEntry) -> Annotation:
    """
    Raises:
        BadReference
    """
    found = read_reference(entry.references, entry.audio.stem)
    return replace(found, text=entry.text) if entry.text else found


def read_reference(paths: Sequence[Path], recording: str) -> Annotation:
    """Combine the reference files of one recording.

    Without an RTTM the turns come from the utterances; without an STM the utterances come from the
    words and turns.

    Args:
        recording: its name in files with several recordings.

    Raises:
        BadReference
    """
    found = Annotation()
    for path in paths:
        read = READERS[path.suffix](path, recording)
        found = Annotation(
            found.utterances or read.utterances,
            found.words or read.words,
            found.turns or read.turns,
            found.text or read.text,
        )
    turns = found.turns or tuple(
        Turn(part.start, part.end, part.speaker) for part in found.utterances if part.speaker
    )
    turns = tuple(
        turn for turn in turns if turn.end > turn.start
    )  # a speaker without speech does not count
    utterances = found.utterances or _build_utterances(found.words, turns)
    return Annotation(utterances, found.words, turns, found.text)


def read_rttm(path: Path, recording: str) -> Annotation:
    """`SPEAKER <recording> <channel> <start> <duration> <NA> <NA> <speaker> <NA> <NA>`"""
    lines = [line for line in _read_fields(path, 8) if line[1] == "SPEAKER"]
    turns = []
    for number, _, _, _, start, duration, _, _, speaker, *_ in _select(lines, 2, recording, path):
        turns.append(Turn(*_parse_interval(start, duration, path, number), speaker))
    return Annotation(turns=tuple(sorted(turns, key=lambda turn: (turn.start, turn.end))))


def read_stm(path: Path, recording: str) -> Annotation:
    """`<recording> <channel> <speaker> <start> <end> [<labels>] text`"""
    lines = [line for line in _read_fields(path, 5) if line[3].lower() not in NOT_SCORED]
    utterances = []
    for number, _, _, speaker, start, end, *text in _select(lines, 1, recording, path):
        if text and re.fullmatch(r"<[^>]*>", text[0]):
            text = text[1:]
        if text and "ignore_time_segment_in_scoring" not in text[0].lower():
            if ALTERNATIVES.search(" ".join(text)):
                raise _alternatives_error(path, number)
            times = _parse_seconds(start, path, number), _parse_seconds(end, path, number)
            utterances.append(Spoken(speaker, *_check_order(times, path, number), " ".join(text)))
    return Annotation(utterances=tuple(sorted(utterances, key=lambda part: (part.start, part.end))))


def read_ctm(path: Path, recording: str) -> Annotation:
    """`<recording> <channel> <start> <duration> <word> [<confidence>]`"""
    words = []
    for number, _, _, start, duration, word, *_ in _select(
        _read_fields(path, 5), 1, recording, path
    ):
        if word.startswith("<ALT"):
            raise _alternatives_error(path, number)
        words.append(TimedText(word, *_parse_interval(start, duration, path, number)))
    return Annotation(words=tuple(sorted(words, key=lambda word: word.start)))


def read_text(path: Path, recording: str) -> Annotation:
    return Annotation(text=" ".join(line.strip() for _, line in _read_lines(path)).strip())


def read_transcript(path: Path, recording: str) -> Annotation:
    try:
        text = path.read_text(encoding="utf-8-sig")
        annotation = build_annotation(from_json(text))
        times = [(word.start, word.end) for word in annotation.words]
        times += [(turn.start, turn.end) for turn in annotation.turns]
        in_order = all(start <= end for start, end in times)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadReference(f"{path} is not a Fieldscribe transcript ({error})") from None
    if not in_order:
        raise BadReference(f"{path}: a word or turn ends before it starts")
    return annotation


def build_annotation(transcript: Transcript) -> Annotation:
    """Utterances are the sentences, timed by their words."""
    return Annotation(
        utterances=tuple(
            Spoken(segment.speaker, words[0].start, words[-1].end, text_of(words))
            for segment in transcript.segments
            for words in (segment.words[i:j] for i, j in split_sentences(segment.words))
        ),
        words=tuple(
            TimedText(word.text.strip(), word.start, word.end, segment.speaker)
            for segment in transcript.segments
            for word in segment.words
        ),
        turns=transcript.turns,
    )


READERS: dict[str, Callable[[Path, str], Annotation]] = {
    ".rttm": read_rttm,
    ".stm": read_stm,
    ".ctm": read_ctm,
    ".json": read_transcript,
    ".txt": read_text,
}


def _build_utterances(words: Sequence[TimedText], turns: Sequence[Turn]) -> tuple[Spoken, ...]:
    if not turns:
        return ()
    plain = [Word(word.text, word.start, word.end, 1.0) for word in words]
    speakers = attribute_by_turns(plain, sorted(turns, key=lambda turn: turn.start))
    utterances = []
    for speaker, group in groupby(zip(speakers, words, strict=True), key=lambda pair: pair[0]):
        own = [word for _, word in group]
        text = " ".join(word.text for word in own)
        utterances.append(Spoken(speaker, own[0].start, own[-1].end, text))
    return tuple(utterances)


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadReference(f"{path} cannot be read as UTF-8 text ({error})") from None
    yield from enumerate(text.splitlines(), start=1)


def _read_fields(path: Path, at_least: int) -> list[list[str]]:
    """The number and the fields of each line. `;;` and `#` start comments."""
    lines = []
    for number, line in _read_lines(path):
        fields = line.split()
        if not fields or fields[0].startswith((";;", "#")):
            continue
        if len(fields) < at_least:
            raise BadReference(f"{path}, line {number}: fewer than {at_least} fields")
        lines.append([str(number), *fields])
    return lines


def _select(
    lines: Sequence[list[str]], column: int, recording: str, path: Path
) -> Iterator[list[str]]:
    """The lines of this recording; a file with a single recording may name it differently."""
    names = {line[column] for line in lines}
    if len(names) > 1 and recording not in names:
        raise BadReference(f"{path} has several recordings and none is called {recording}")
    for line in lines:
        if len(names) == 1 or line[column] == recording:
            yield line


def _parse_seconds(text: str, path: Path, number: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise BadReference(f"{path}, line {number}: {text} is not a number of seconds")
    return seconds


def _parse_interval(start: str, duration: str, path: Path, number: str) -> tuple[float, float]:
    begin = _parse_seconds(start, path, number)
    return _check_order((begin, begin + _parse_seconds(duration, path, number)), path, number)


def _check_order(times: tuple[float, float], path: Path, number: str) -> tuple[float, float]:
    if times[1] < times[0]:
        raise BadReference(f"{path}, line {number}: it ends before it starts")
    return times


def _alternatives_error(path: Path, number: str) -> BadReference:
    return BadReference(f"{path}, line {number}: it has alternatives; keep only what was said")
