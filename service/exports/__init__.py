"""Formats of a transcript. All are rendered from the same `Transcript`.

May import the plain data of `models`. `batch`, `commands`, `api` and scripts may import it.
"""

from collections.abc import Callable
from enum import StrEnum

from models.transcript import Transcript
from models.transcript_json import to_json
from service.exports.captions import srt, vtt
from service.exports.text import txt


class Format(StrEnum):
    JSON = "json"
    TXT = "txt"
    VTT = "vtt"
    SRT = "srt"


FORMATS: dict[Format, Callable[[Transcript], str]] = {
    Format.JSON: to_json,
    Format.TXT: txt,
    Format.VTT: vtt,
    Format.SRT: srt,
}
