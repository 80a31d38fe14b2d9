"""`fieldscribe speakers`: show and name speakers, in the service or in a file of batch mode.

ServiceError
└── Misused
    └── BadSpeakerName
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from models.speaker_names import is_code, is_pseudonym, names_of
from models.transcript import SpeakerName, Transcript
from models.voices import describe_voices
from service.batch.outputs import MARK, Earlier, Outputs, read_earlier, write_outputs
from service.commands.client import Client, Refused
from service.commands.connection import connect
from service.commands.console import print_json, printable, report_errors
from service.commands.names import check_name, find_finished_job
from service.commands.options import AsJson
from service.commands.transcript import TranscriptNotReady
from service.errors import Misused, OutputNotWritable
from service.exports import SPECS, Format, Label
from service.exports.files import write_whole
from service.exports.text import clock

ROLES = ("interviewer", "participant", "moderator", "observer", "other")
LABELS_SHOWN = "`fieldscribe speakers` shows the labels"


class BadSpeakerName(Misused):
    """A speaker's name is neither a code nor a pseudonym, or there is no such speaker."""

    code: ClassVar[str] = "bad_speaker_name"


@dataclass(frozen=True)
class Person:
    """A speaker, as described by the API or found in batch mode's file."""

    label: str
    name: SpeakerName
    shown: str
    talk_time: float
    talk_share: float
    words: int
    quotes: tuple[Mapping[str, Any], ...]
    suggested_role: str | None
    n_turns: int = 0  # to listen to


def speakers_command(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB|FILE",
            help="Code of a session, such as INT-07, or id of a job; or the JSON file that "
            "`fieldscribe transcribe` wrote.",
        ),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="LABEL=NAME",
            help="Name a speaker by a code (P07, I1, M1, INT07-2) or by a pseudonym; nothing "
            "after the = removes the name. Repeatable.",
        ),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL=ROLE",
            help="interviewer, participant, moderator, observer or other; by default, the role on "
            "the roster. Repeatable.",
        ),
    ] = None,
    clips: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Save a clip of each speaker's voice here; only with the service.",
            file_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the speakers of a transcript, and name them.

    Shows each speaker's talk time and quotes. Every format shows the names.
    """
    path = Path(job)
    if path.suffix.lower() == ".json":
        if clips is not None:
            raise typer.BadParameter("only the service can save clips: play the recording instead")
        with report_errors(as_json):
            in_file(path, set_ or [], role or [], as_json)
        return
    name = check_name("fieldscribe jobs")(job)
    with connect(as_json) as client:
        in_service(client, name, set_ or [], role or [], clips, as_json)


# --- in the service -------------------------------------------------------------------------------


def in_service(
    client: Client,
    job: str,
    names: Sequence[str],
    roles: Sequence[str],
    clips: Path | None,
    as_json: bool,
) -> None:
    found = client.get(f"/v1/jobs/{find_finished_job(client, job)}")
    if found["transcript_id"] is None:
        raise TranscriptNotReady(f"The job has no transcript: it is {found['status']}.")
    url = f"/v1/transcripts/{found['transcript_id']}/speakers"
    answer = client.get(url)
    if names or roles:
        current = {person.label: person.name for person in _people(answer)}
        wanted = rename(current, names, roles, _roster_roles(answer["roster"]))
        body = {label: asdict(name) for label, name in wanted.items()}
        answer = client.request("PUT", url, json=body).json()
    if as_json:
        print_json(answer)
    else:
        show(_people(answer), answer["roster"], job, named=bool(names or roles))
    if clips is not None:
        save_clips(client, url, _people(answer), clips)


def _people(answer: dict[str, Any]) -> list[Person]:
    return [
        Person(
            label,
            SpeakerName(each["role"], each["code"], each["pseudonym"]),
            each["name"],
            each["talk_time"],
            each["talk_share"],
            each["words"],
            tuple(each["quotes"]),
            each["suggested_role"],
            len(each["turns"]),
        )
        for label, each in answer["speakers"].items()
    ]


def _roster_roles(roster: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {person["code"]: person["role"] for person in roster}


def save_clips(client: Client, url: str, people: Sequence[Person], folder: Path) -> None:
    """
    Raises:
        OutputNotWritable
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for person in people:
            if not person.n_turns:
                continue
            try:
                clip = client.request("GET", f"{url}/{person.label}/clip")
            except Refused as error:
                typer.echo(f"{person.label}: no clip was saved: {error}", err=True)
                continue
            path = folder / f"{person.label}.identified.wav"
            write_whole(path, clip.content)
            typer.echo(f"Saved {printable(str(path))}", err=True)
    except OSError as error:
        raise OutputNotWritable(
            f"The clips cannot be written ({error.strerror}): choose another folder with --clips."
        ) from None


# --- in a file ------------------------------------------------------------------------------------


def in_file(path: Path, names: Sequence[str], roles: Sequence[str], as_json: bool) -> None:
    """
    Raises:
        BadSpeakerName, OutputNotWritable
    """
    earlier = read_earlier(path)
    if earlier is None:
        raise BadSpeakerName(
            "The file is not a transcript: give the JSON file that `fieldscribe transcribe` wrote."
        )
    transcript = earlier.transcript
    roster = transcript.made_with.options.get("roster") or []
    roster = [dict(person) for person in roster]
    if names or roles:
        current = {
            label: transcript.names.get(label, SpeakerName()) for label in transcript.speakers
        }
        named = rename(current, names, roles, _roster_roles(roster))
        transcript = replace(
            transcript,
            names={label: name for label, name in named.items() if name != SpeakerName()},
            version=transcript.version + 1,
        )
        _report(_rewrite(path, earlier, transcript))
    people = _people_of(transcript)
    if as_json:
        print_json({person.label: asdict(person) for person in people})
    else:
        show(people, roster, str(path), named=bool(names or roles))


def _rewrite(path: Path, earlier: Earlier, transcript: Transcript) -> Outputs:
    """Write the JSON again, and every export beside it."""
    base = path.with_name(path.name[: -len(path.suffix)])
    formats = [
        format
        for format in Format
        if format != Format.JSON
        and (
            SPECS[format].extension in transcript.written
            or base.with_name(f"{base.name}.{SPECS[format].extension}").exists()
        )
    ]
    label = Label(session=base.name.removesuffix(f".{MARK}"))
    try:
        return write_outputs(transcript, base, formats, label, earlier=earlier)
    except OSError as error:
        raise OutputNotWritable(f"The transcript cannot be written ({error.strerror}).") from None


def _report(outputs: Outputs) -> None:
    for each in outputs.kept:
        typer.echo(
            f"{printable(each.kept.name)} is kept, because a person may have changed it; the new "
            f"one is {printable(each.written.name)}.",
            err=True,
        )
    written = ", ".join(printable(path.name) for path in outputs.paths)
    typer.echo(f"Written: {written}", err=True)


def _people_of(transcript: Transcript) -> list[Person]:
    shown = names_of(transcript.speakers, transcript.names)
    return [
        Person(
            voice.label,
            transcript.names.get(voice.label, SpeakerName()),
            shown[voice.label],
            voice.talk_time,
            voice.talk_share,
            voice.words,
            tuple(asdict(quote) for quote in voice.quotes),
            voice.suggested_role,
        )
        for voice in describe_voices(transcript)
    ]


# --- names ----------------------------------------------------------------------------------------


def rename(
    current: Mapping[str, SpeakerName],
    names: Sequence[str],
    roles: Sequence[str],
    roster_roles: Mapping[str, str],
) -> dict[str, SpeakerName]:
    """Return the names of all speakers after `--set` and `--role`.

    Args:
        names, roles: `SPEAKER_00=I1`.
        roster_roles: by code; a speaker who gets a code of the roster gets its role.

    Raises:
        BadSpeakerName
    """
    renamed = dict(current)
    for label, text in _pairs(names, current):
        own = renamed[label]
        if not text:
            renamed[label] = SpeakerName()
        elif is_code(code := text.upper()):
            renamed[label] = SpeakerName(roster_roles.get(code, own.role), code)
        elif is_pseudonym(text):
            renamed[label] = SpeakerName(own.role, own.code, text)
        else:
            raise BadSpeakerName(
                "Name a speaker by a code or a pseudonym. A code is one to three capitals and a "
                "number, with a second part if needed (P07, I1, M1, INT07-2). A pseudonym is a "
                "letter and then letters, digits, spaces and .'-, at most 40 characters in all."
            )
    for label, text in _pairs(roles, current):
        if text and text.lower() not in ROLES:
            raise BadSpeakerName(f"A role is one of {', '.join(ROLES)}.")
        renamed[label] = replace(renamed[label], role=text.lower() or None)
    return renamed


def _pairs(texts: Sequence[str], labels: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """
    Raises:
        BadSpeakerName
    """
    for text in texts:
        label, equals, value = text.partition("=")
        label = label.strip().upper()
        if not equals:
            raise BadSpeakerName("Write LABEL=NAME, for example SPEAKER_00=I1.")
        if label not in labels:
            raise BadSpeakerName(f"The speakers are {', '.join(labels)}; {LABELS_SHOWN}.")
        yield label, " ".join(value.split())


def show(
    people: Sequence[Person], roster: Sequence[Mapping[str, str]], of: str, *, named: bool
) -> None:
    for person in people:
        typer.echo(printable(_describe(person)))
        for quote in person.quotes:
            typer.echo(printable(f"    [{clock(quote['start'])}] {quote['text']}"))
    if roster:
        listed = ", ".join(f"{person['code']} {person['role']}" for person in roster)
        typer.echo(printable(f"Roster: {listed}"))
    if named:
        typer.echo("Every format shows these names.", err=True)
    elif people and all(person.name == SpeakerName() for person in people):
        example = f"fieldscribe speakers {of} --set {people[0].label}=I1"
        typer.echo(f"Name them by code or pseudonym: {printable(example)}", err=True)


def _describe(person: Person) -> str:
    name = "" if person.shown == person.label else f" = {person.shown}"
    role = f", {person.name.role}" if person.name.role else ""
    seems = f"; perhaps the {person.suggested_role}" if person.suggested_role and not role else ""
    words = "1 word" if person.words == 1 else f"{person.words} words"
    return (
        f"{person.label}{name}{role}: {clock(person.talk_time)} ({person.talk_share:.0%}), "
        f"{words}{seems}"
    )
