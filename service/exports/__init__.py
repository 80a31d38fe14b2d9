"""Views of one transcript. Each format has a module; all read the same `Transcript`."""

from collections.abc import Callable

from models.transcript import Transcript
from service.exports.captions import srt, vtt
from service.exports.text import txt

FORMATS: dict[str, Callable[[Transcript], str]] = {
    "json": Transcript.to_json,
    "txt": txt,
    "vtt": vtt,
    "srt": srt,
}
