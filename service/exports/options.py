"""The names of an export, and the options for its text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.exports.lines import NumberedLine


class Wording(StrEnum):
    VERBATIM = "verbatim"
    CLEAN = "clean"  # without hesitations and false starts


class Timestamps(StrEnum):
    TURN = "turn"  # at the beginning (f4, MAXQDA: the end) of each paragraph
    MINUTE = "minute"  # also within a paragraph, once a minute
    NONE = "none"


class Notation(StrEnum):
    """How pauses and overlaps are written.

    NOTES: in words. JEFFERSON: `(2.0)` and `[word]` (Jefferson 2004, Glossary of transcript
    symbols). DRESING_PEHL: `(..)`, `(4)` and `//word//` (Dresing and Pehl 2018, Praxisbuch
    Interview, the rules of f4's makers).
    """

    NOTES = "notes"
    JEFFERSON = "jefferson"
    DRESING_PEHL = "dresing-pehl"


class ProjectProfile(StrEnum):
    """The program that a REFI-QDA project is for.

    MAXQDA counts a line end as two characters, NVivo an emoji; QualCoder and NVivo give a case and
    its code one GUID, which ATLAS.ti refuses.
    """

    ANY = "any"
    QUALCODER = "qualcoder"
    NVIVO = "nvivo"
    MAXQDA = "maxqda"
    ATLAS = "atlas"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Choices that change what every format shows, except JSON, which is the transcript itself."""

    wording: Wording = Wording.VERBATIM
    timestamps: Timestamps = Timestamps.TURN
    pauses: float | None = None  # s; None: no marks, otherwise pauses of at least this length
    overlaps: bool = True
    notation: Notation | None = None  # None: that of the format
    line_numbers: bool = True  # in documents for reading
    punctuation: str | None = None  # a language whose punctuation marks to use
    project: ProjectProfile = ProjectProfile.ANY
    earlier_lines: "Sequence[NumberedLine]" = ()  # of an earlier version, for `lines`


@dataclass(frozen=True, kw_only=True)
class Label:
    """The codes that identify a transcript in pages, file names and projects; no names or paths."""

    session: str
    study: str | None = None
    version: int | None = None
    release: int | None = None  # None: the transcript is identified
    roles: Mapping[str, str] = field(default_factory=dict)  # by the speaker's name

    @property
    def status(self) -> str:
        return "identified" if self.release is None else f"release-{self.release}"

    @property
    def marking(self) -> str:
        """What the header of each page says."""
        return "IDENTIFIED" if self.release is None else f"RELEASE {self.release}"

    @property
    def subject(self) -> str:
        return f"Transcript, {self.status}"

    @property
    def stem(self) -> str:
        """`INT-07.v3.identified`: the file's name without its extension."""
        version = "" if self.version is None else f".v{self.version}"
        return f"{self.session}{version}.{self.status}"

    @property
    def title(self) -> str:
        """`PEER, INT-07, version 3, identified`"""
        version = None if self.version is None else f"version {self.version}"
        status = "identified" if self.release is None else f"release {self.release}"
        return ", ".join(filter(None, (self.study, self.session, version, status)))
