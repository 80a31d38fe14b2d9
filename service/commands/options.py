"""Options that several commands share: their declarations, and how their values are read."""

import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer

from models.languages import AUTO, is_auto, language_code
from models.precision import Precision

CHANNELS_HELP = (
    "split: each channel is one speaker; mix: all channels together; auto: decide from the audio."
)


def language_option(default: str) -> Any:
    return typer.Option(
        metavar="LANGUAGE",
        help=f"Language spoken: en, de, German, ..., or auto to detect it. By default {default}.",
    )


def roster_option(note: str = "") -> Any:
    return typer.Option(
        metavar="FILE",
        help=f"Text file listing who took part: a code and a role per line, "
        f"such as 'P01 participant'.{note}",
    )


def check_id(list_command: str) -> Callable[[str], str]:
    """A callback that refuses anything but a UUID before it is sent to the API."""

    def check(text: str) -> str:
        try:
            return str(uuid.UUID(text.strip()))
        except ValueError:
            raise typer.BadParameter(
                f"this is not an id of 36 characters; `{list_command}` shows them"
            ) from None

    return check


def check_study(text: str) -> str:
    """Refuse anything but a code, because it becomes part of the request's path."""
    if not re.fullmatch("[A-Za-z0-9-]+", text):
        raise typer.BadParameter("a study is named by its code, such as PEER")
    return text


def default_weights_folder() -> Path:
    return platformdirs.user_data_path("fieldscribe") / "weights"


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILES", help="Recordings: audio or video files.", show_default=False),
]
Join = Annotated[
    bool,
    typer.Option("--join", help="Treat the files as one session, in the order given."),
]
Limit = Annotated[int, typer.Option(metavar="N", min=1, help="How many to list at most.")]
Cursor = Annotated[
    str | None,
    typer.Option(
        metavar="CURSOR", help="Get the next page of a list: the `next_cursor` that --json printed."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
StudyOption = Annotated[
    str | None, typer.Option("--study", metavar="CODE", help="List only this study's.")
]
StudyArgument = Annotated[
    str, typer.Argument(metavar="CODE", help="Code of the study.", callback=check_study)
]
AccessStudies = Annotated[
    list[str] | None,
    typer.Option("--study", metavar="CODE", help="Code of a study to give access to; repeatable."),
]
AllStudies = Annotated[
    bool, typer.Option("--all-studies", help="Give access to all studies, future ones included.")
]
AccessEnd = Annotated[
    str | None,
    typer.Option(
        "--expires", metavar="TIME", help="When the access ends, such as 2031-12-31T23:59:59Z."
    ),
]
RecordingId = Annotated[
    str,
    typer.Argument(
        metavar="RECORDING",
        help="Id of a recording.",
        callback=check_id("fieldscribe recording list"),
    ),
]
Parallel = Annotated[
    bool,
    typer.Option(
        "--parallel",
        help="The files are one session, recorded at the same time, one speaker in each.",
    ),
]
MixedLanguages = Annotated[
    bool,
    typer.Option(
        "--mixed-languages",
        help="Expect stretches of up to 30 s in a different language from the rest.",
    ),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        help="Number format to compute in. A lower precision than the default needs weights "
        "that scripts/evaluate has measured at it.",
    ),
]
DevicesOption = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="LIST",
        help="Devices to use, such as cuda:0,cuda:2 or cpu,cpu; by default every GPU, or the CPU.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        help="Transcribe only the K-th of N parts of the recordings, chosen by their content.",
        callback=lambda text: text and "/".join(map(str, parse_shard(text))),
    ),
]
Speakers = Annotated[
    str | None,
    typer.Option(metavar="N|MIN-MAX", help="How many people speak: 2, or 5-8."),
]
Translate = Annotated[
    bool, typer.Option("--translate", help="Translate into English, whatever is spoken.")
]
Vocabulary = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Text file of names and terms to expect, one per line."),
]
WeightsFolder = Annotated[
    Path,
    typer.Option(
        "--weights",
        metavar="FOLDER",
        envvar="FIELDSCRIBE_WEIGHTS",
        file_okay=False,
        default_factory=default_weights_folder,
        show_default="in the user's data folder",
        help="Folder of the model weights.",
    ),
]


def requested_language(name: str | None) -> str | None:
    """The code of a language given by name or code; None and `auto` are returned as they are.

    Raises:
        UnknownLanguage
    """
    if name is None:
        return None
    return AUTO if is_auto(name) else language_code(name)


def parallel_channels(files: Sequence[Path], channels: str, *, join: bool) -> str:
    """The value of `channels` for --parallel.

    Raises:
        typer.BadParameter: another option contradicts it.
    """
    if len(files) < 2:
        raise typer.BadParameter(
            "give two files or more, one for each speaker", param_hint="--parallel"
        )
    if join:
        raise typer.BadParameter(
            "--join is for files that follow each other: use --join or --parallel, not both",
            param_hint="--parallel",
        )
    if channels != "auto":
        raise typer.BadParameter(
            "each file is one speaker already: leave out --channels", param_hint="--parallel"
        )
    return "parallel"


def parse_speaker_bounds(text: str) -> dict[str, int]:
    """`6` or `2-4` as the API takes it: `{"min": 2, "max": 4}`."""
    low, dash, high = text.partition("-")
    try:
        return {"min": int(low), "max": int(high if dash else low)}
    except ValueError:
        raise typer.BadParameter(
            "write a number, such as 6, or a range, such as 2-4", param_hint="--speakers"
        ) from None


def parse_shard(text: str) -> tuple[int, int]:
    """Read `3/16`: the number of a part, from 1, and how many there are."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise typer.BadParameter("write it as 3/16, the first number from 1 to the second")
    return int(number), int(count)
