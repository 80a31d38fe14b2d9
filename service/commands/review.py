"""`fieldscribe review`: decide on the identifying spans of a transcript, one key each.

Every decision is sent at once, so that an interruption loses nothing.

ServiceError
└── Misused
    └── SampleInterrupted
"""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import typer

from service.commands.client import Client, Refused
from service.commands.connection import connect
from service.commands.console import print_json, printable, terminal_width
from service.commands.names import JobName, find_finished_job
from service.commands.options import AsJson
from service.commands.review_text import (
    LABEL_WORDS,
    WIDEST,
    Passages,
    describe_group,
    describe_recall,
    describe_votes,
    group_mentions,
    numbered_words,
    passage_lines,
    read_range,
)
from service.commands.transcript import TranscriptNotReady
from service.errors import Misused

KEYS = """\
  a  accept: it identifies somebody      A  and the same in this transcript
                                         S  and the same in the whole study
  r  reject: it identifies nobody        R  the same text in this transcript
  l  allow-list: reject this text in the whole study, now and later
  e  say whom or what it names           w  choose other words
  c  show more of the transcript         u  take the last decision back
  n  next, decide later                  q  stop; the rest stays open
"""
SHORT_KEYS = "a accept  r reject  e entity  n next  ? all keys:"
LABEL_KEYS = {
    "p": "PERSON",
    "l": "PLACE",
    "o": "ORGANISATION",
    "s": "ADDRESS",
    "d": "DATE",
    "a": "AGE",
    "t": "PHONE",
    "i": "ID",
    "m": "EMAIL",
    "b": "WEB",
    "h": "HANDLE",
    "x": "OTHER",
}
NEW_KINDS = {"p": "person", "o": "organisation", "l": "place", "t": "participant", "x": "other"}
PAGE = 40  # unsuggested words on a screen


class SampleInterrupted(Misused):
    """A blind sample was not read to its end."""

    code: ClassVar[str] = "sample_interrupted"


class Stop(Exception):
    """The person wants to stop."""


def review_command(
    job: JobName,
    sample: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=500,
            help="Read N segments, drawn at random, without marks, and mark every identifier: for "
            "a second person, after the review. 20 is a good number.",
        ),
    ] = None,
    unsuggested: Annotated[
        bool,
        typer.Option(
            "--unsuggested",
            help="Only print the capitalised, rare and numeric words that nothing has suggested.",
        ),
    ] = False,
    begin: Annotated[
        bool, typer.Option("--begin", help="Begin without waiting for a de-identifier.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Decide on the identifying spans of a transcript.

    Shows each person, place or thing with every mention in its context and takes one key for each:
    ? lists the keys. Then come the words that nothing has suggested. Stop at any time: the next
    run continues. With --json, prints the review and asks nothing.
    """
    with connect(as_json) as client:
        found = client.get(f"/v1/jobs/{find_finished_job(client, job)}")
        if found["transcript_id"] is None:
            raise TranscriptNotReady(f"The job has no transcript: it is {found['status']}.")
        url = f"/v1/transcripts/{found['transcript_id']}"
        if begin:
            client.request("POST", f"{url}/review")
        if sample is not None:
            read_sample(client, url, sample, as_json)
        elif unsuggested:
            show_unsuggested(client, url, as_json)
        elif as_json:
            print_json(client.get(f"{url}/review"))
        else:
            screen = Screen.open(client, url, found["study_id"])
            try:
                screen.decide_all()
                screen.look_through_rest()
            except (Stop, EOFError):
                pass
            except KeyboardInterrupt:
                typer.echo("")
                screen.say_where_it_stands(job)
                raise
            screen.say_where_it_stands(job)


def read_key() -> str:
    """One key from the terminal, or one character of what is piped in.

    Raises:
        EOFError: there is no more.
        KeyboardInterrupt: it was Ctrl-C.
    """
    if sys.stdin.isatty():
        return typer.getchar()
    while (character := sys.stdin.read(1)) in ("\n", "\r"):
        pass
    if not character:
        raise EOFError
    return character


def read_line(question: str) -> str:
    """
    Raises:
        EOFError
    """
    typer.echo(question, nl=False)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    if not sys.stdin.isatty():
        typer.echo("")  # a terminal has shown the Enter
    return line.strip()


def width() -> int:
    return terminal_width() or 80


def echo_wrapped(text: str, *, err: bool = False) -> None:
    columns = min(width(), WIDEST)
    for line in textwrap.wrap(text, columns, subsequent_indent="  ", break_on_hyphens=False):
        typer.echo(line, err=err)


def echo_labels() -> None:
    keys = (
        f"{key} {LABEL_WORDS[label]}".replace(" ", "\u00a0") for key, label in LABEL_KEYS.items()
    )
    for line in textwrap.wrap("  ".join(keys), min(width(), WIDEST) - 2):
        typer.echo(f"  {line}".replace("\u00a0", " "))


# --- the review -----------------------------------------------------------------------------------


@dataclass
class Screen:
    """A review at the terminal."""

    client: Client
    url: str
    study_id: str
    review: dict[str, Any]
    passages: Passages
    entities: dict[str, dict[str, Any]]
    n_decided: int = 0
    undo: list[str] = field(default_factory=list)  # mentions of the last decision
    shown: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, client: Client, url: str, study_id: str) -> "Screen":
        screen = cls(client, url, study_id, {}, Passages({}, {}), {})
        screen.read()
        return screen

    def read(self) -> None:
        """Read the review, and the version of the transcript that it is about."""
        self.review = self.client.get(f"{self.url}/review")
        version = self.review["transcript_version"]
        self.passages = Passages.of(self.client.get(self.url, format="json", version=version))
        self.read_entities()

    def read_entities(self) -> None:
        items = self.client.get(f"{self.url}/review/entities")["items"]
        self.entities = {each["id"]: each for each in items}

    @property
    def mentions(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.review["mentions"]
        return listed

    def decide_all(self) -> None:
        """Go through the open suggestions, group by group, until each was shown once."""
        while groups := group_mentions(
            each for each in self.mentions if each["id"] not in self.shown
        ):
            group = groups[0]
            typer.echo("")
            echo_wrapped(f"{len(groups)} to go. {describe_group(group, self.entities)}")
            for mention in group:
                self.shown.add(mention["id"])
                self.decide_one(mention["id"])

    def decide_one(self, id: str) -> None:
        """Show a mention and take keys until it is decided or skipped."""
        mention = self.find(id)
        if mention is None or mention["state"] != "suggested":
            return  # decided together with another one
        self.echo(mention["segment"], span_of(mention), f" ({describe_votes(mention)})")
        while True:
            typer.echo(f"  {SHORT_KEYS} ", nl=False)
            key = read_key()
            typer.echo(printable(key))
            if key == "q":
                raise Stop
            if key == "n":
                return
            if key == "?":
                typer.echo(KEYS, nl=False)
            elif key == "c":
                for each in self.passages.around(mention["segment"]):
                    self.echo(each, span_of(mention) if each == mention["segment"] else None)
            elif key == "u":
                self.take_back()
            elif self.act(mention, key):
                return
            elif (mention := self.find(id)) is None or mention["state"] != "suggested":
                return  # somebody else has decided

    def act(self, mention: Mapping[str, Any], key: str) -> bool:
        """Do what a key says; return whether the mention is decided."""
        actions = {
            "a": ("accept", "mention"),
            "A": ("accept", "transcript"),
            "S": ("accept", "study"),
            "r": ("reject", "mention"),
            "R": ("reject", "transcript"),
            "l": ("allow", "study"),
        }
        if key == "e":
            chosen = self.choose_entity(mention["label"])
            return chosen is not None and self.send(mention, "accept", "mention", chosen)
        if key == "w":
            return self.choose_words(mention)
        if key not in actions:
            return False
        action, scope = actions[key]
        if action == "accept" and mention["choices"]:
            typer.echo("  Several entities have this name: choose one.")
            chosen = self.choose_entity(mention["label"], mention["choices"])
            return chosen is not None and self.send(mention, action, scope, chosen)
        return self.send(mention, action, scope)

    def send(
        self,
        mention: Mapping[str, Any],
        action: str,
        scope: str,
        entity: Mapping[str, str] | None = None,
        additions: Sequence[Mapping[str, Any]] = (),
    ) -> bool:
        decision = {
            "mention": mention["id"],
            "version": mention["version"],
            "action": action,
            "scope": scope,
            **(entity or {}),
        }
        return self.post([decision], additions)

    def post(
        self, decisions: Sequence[Mapping[str, Any]], additions: Sequence[Mapping[str, Any]] = ()
    ) -> bool:
        """Send decisions; return whether they were made."""
        body = {
            "decisions": decisions,
            "additions": additions,
            "transcript_version": self.review["transcript_version"],
        }
        try:
            answer = self.client.request(
                "POST", f"{self.url}/review/decisions", json=body, retry=False
            ).json()
        except Refused as refused:
            if refused.code not in (
                *("mention_changed", "transcript_changed", "mention_not_found"),
                *("entity_ambiguous", "entity_not_found", "bad_decision"),
            ):
                raise
            typer.echo(f"  {printable(str(refused))}.")
            self.read()
            return False
        changed = {each["id"]: each for each in answer["mentions"]}
        known = {each["id"] for each in self.mentions}
        self.review["mentions"] = [changed.get(each["id"], each) for each in self.mentions] + [
            each for id, each in changed.items() if id not in known
        ]
        self.mentions.sort(key=lambda each: (self.passages.order[each["segment"]], each["start"]))
        decided = [each for each in changed.values() if each["state"] != "suggested"]
        is_allowed = any(each["action"] == "allow" for each in decisions)
        self.undo = [] if is_allowed else [each["id"] for each in decided]
        self.n_decided += len(decided) + answer["elsewhere"]
        if any(each["id"] not in self.entities for each in answer["entities"]):
            self.read_entities()
        for each in answer["entities"]:
            self.entities[each["id"]].update(each)  # it may have got a pseudonym
        for each in decided:
            if each["state"] == "accepted":
                typer.echo(f"  {self.replacement(each)}")
        if answer["elsewhere"]:
            typer.echo(f"  Also decided in other transcripts: {answer['elsewhere']}")
        return True

    def replacement(self, mention: Mapping[str, Any]) -> str:
        entity = self.entities.get(mention["entity_id"] or "")
        pseudonym = entity["pseudonym"] if entity else LABEL_WORDS[mention["label"]]
        return printable(f"{mention['text']} -> {pseudonym}")

    def take_back(self) -> None:
        """Reopen the mentions of the last decision in this transcript."""
        taken = [found for id in self.undo if (found := self.find(id)) is not None]
        if not taken:
            typer.echo("  There is no decision to take back.")
            return
        self.post(
            [
                {"mention": each["id"], "version": each["version"], "action": "reopen"}
                for each in taken
            ]
        )
        self.n_decided -= len(taken)
        self.undo = []
        self.shown -= {each["id"] for each in taken}
        typer.echo(f"  Taken back: {len(taken)}; you will be asked again.")

    def choose_entity(self, label: str, choices: Sequence[str] = ()) -> dict[str, str] | None:
        """Ask whom a mention names; None to decide later."""
        listed = [
            each
            for id, each in self.entities.items()
            if (id in choices if choices else not each["erased"])
        ]
        for number, each in enumerate(listed, 1):
            names = ", ".join(each["names"][:3])
            typer.echo(printable(f"  {number}  {each['pseudonym'] or each['kind']} ({names})"))
        typer.echo("  p new person  o new organisation  l new place  t new participant  x other")
        answer = read_line("  Number, letter, or a name of the study; Enter to decide later: ")
        if answer.isdecimal() and 1 <= int(answer) <= len(listed):
            return {"entity": listed[int(answer) - 1]["id"]}
        if answer in NEW_KINDS:
            return {"new_entity": NEW_KINDS[answer]}
        if len(answer) < 2:
            return None
        found = self.client.request(
            "POST", f"/v1/studies/{self.study_id}/entities/find", json={"name": answer}
        ).json()["items"]
        if len(found) != 1:
            typer.echo(f"  {len(found)} entities of the study have this name.")
            return None
        return {"entity": found[0]["id"]}

    def choose_words(self, mention: Mapping[str, Any]) -> bool:
        """Replace a suggestion by other words of its segment."""
        words = self.passages.words(mention["segment"])
        for line in numbered_words(words, width()):
            typer.echo(line)
        span = read_range(read_line("  First and last word, such as 3-5: "), len(words))
        if span is None:
            typer.echo("  There are no such words.")
            return False
        addition: dict[str, Any] = {
            "segment": mention["segment"],
            "words": list(span),
            "label": mention["label"],
        }
        if mention["entity_id"] and not mention["choices"]:
            addition["entity"] = mention["entity_id"]
        return self.send(mention, "reject", "mention", additions=[addition])

    # --- what nobody suggested --------------------------------------------------------------------

    def look_through_rest(self) -> None:
        """Show the words that nothing has suggested; take those that identify somebody."""
        rest = self.client.get(f"{self.url}/review/unsuggested")
        words = rest["words"]
        typer.echo("\nWords that nothing has suggested: look for names, places and numbers.")
        for start in range(0, len(words), PAGE):
            for line in unsuggested_lines(words[start : start + PAGE], start):
                typer.echo(line)
            while answer := read_line(
                "  A number shows the word in its context; Enter continues, q stops: "
            ):
                if answer == "q":
                    raise Stop
                if answer.isdecimal() and 1 <= int(answer) <= len(words):
                    self.look_at(words[int(answer) - 1])
        for flag in rest["flags"]:
            if flag is rest["flags"][0]:
                typer.echo("\nTogether, phrases such as these can identify somebody:")
            self.echo(flag["segment"], (flag["start"], flag["end"]))

    def look_at(self, word: Mapping[str, Any]) -> None:
        for place in word["places"]:
            span = (place["start"], place["end"])
            if any(
                each["segment"] == place["segment"]
                and each["start"] < span[1]
                and span[0] < each["end"]
                and each["state"] == "accepted"
                for each in self.mentions
            ):
                continue
            self.echo(place["segment"], span)
            addition: dict[str, Any] = {"segment": place["segment"], "span": list(span)}
            label = self.choose_label()
            if label == "words":
                words = self.passages.words(place["segment"])
                for line in numbered_words(words, width()):
                    typer.echo(line)
                chosen = read_range(read_line("  First and last word, such as 3-5: "), len(words))
                if chosen is None:
                    typer.echo("  There are no such words.")
                    continue
                addition = {"segment": place["segment"], "words": list(chosen)}
                label = self.choose_label()
            if label not in (None, "words"):
                self.post([], [{**addition, "label": label}])

    def choose_label(self) -> str | None:
        """What a word is; `words` to choose other words, None if it identifies nobody."""
        while True:
            echo_labels()
            typer.echo("  w choose words  n identifies nobody ", nl=False)
            key = read_key()
            typer.echo(printable(key))
            if key == "q":
                raise Stop
            if key == "n":
                return None
            if key == "w":
                return "words"
            if key in LABEL_KEYS:
                return LABEL_KEYS[key]

    # --- output -----------------------------------------------------------------------------------

    def find(self, id: str) -> dict[str, Any] | None:
        return next((each for each in self.mentions if each["id"] == id), None)

    def echo(self, segment: str, span: tuple[int, int] | None, note: str = "") -> None:
        for line in passage_lines(self.passages, segment, span, width(), note):
            typer.echo(line)

    def say_where_it_stands(self, job: str) -> None:
        n_open = sum(each["state"] == "suggested" for each in self.mentions)
        typer.echo(f"{self.n_decided} decided now, {n_open} open.", err=True)
        if n_open:
            echo_wrapped(f"Continue with `fieldscribe review {job}`.", err=True)
        else:
            typer.echo("The review is finished. Now let a second person read a sample:", err=True)
            echo_wrapped(f"`fieldscribe review {job} --sample 20`", err=True)


def span_of(mention: Mapping[str, Any]) -> tuple[int, int]:
    return mention["start"], mention["end"]


# --- what nobody suggested ------------------------------------------------------------------------


def show_unsuggested(client: Client, url: str, as_json: bool) -> None:
    rest = client.get(f"{url}/review/unsuggested")
    if as_json:
        print_json(rest)
        return
    for line in unsuggested_lines(rest["words"], 0):
        typer.echo(line)
    counts = ", ".join(f"{kind} {count}" for kind, count in rest["counts"].items())
    typer.echo(f"Words left: {counts}. Phrases to consider: {len(rest['flags'])}.", err=True)


def unsuggested_lines(words: Sequence[Mapping[str, Any]], first: int) -> list[str]:
    """`  1 Woolgoolga (2)`, in columns that fit the terminal."""
    cells = [
        printable(f"{number} {each['word']} ({each['count']})")
        for number, each in enumerate(words, first + 1)
    ]
    if not cells:
        return []
    column = min(max(map(len, cells)) + 2, width() - 2)
    n = max(1, (width() - 2) // column)
    return [
        "  " + "".join(cell.ljust(column) for cell in cells[i : i + n]).rstrip()
        for i in range(0, len(cells), n)
    ]


# --- the blind sample -----------------------------------------------------------------------------


def read_sample(client: Client, url: str, n_segments: int, as_json: bool) -> None:
    """Read a blind sample: every identifier is marked by its words.

    Raises:
        SampleInterrupted
    """
    drawn = client.post(f"{url}/review/samples", {"segments": n_segments})
    if not as_json:
        typer.echo(
            "Mark every identifier, as if nobody had read this before.\n"
            "For each, type its words and a letter, such as 3-4 p. Several: 3-4 p, 9 l.\n"
            "Press Enter if there is none."
        )
        echo_labels()
    marks: list[dict[str, Any]] = []
    try:
        for number, segment in enumerate(drawn["segments"], 1):
            marks += _read_marks(segment, f"{number} of {len(drawn['segments'])}")
    except (EOFError, KeyboardInterrupt):
        raise SampleInterrupted(
            "Nothing was stored: draw another sample when you have time to read all of it."
        ) from None
    path = f"{url}/review/samples/{drawn['id']}/finish"
    answer = client.request("POST", path, json={"marks": marks}, retry=False).json()
    if as_json:
        print_json(answer)
        return
    own = next(each for each in answer["items"] if each["id"] == drawn["id"])
    typer.echo(f"\nFound before: {own['n_found']}. Missed, and added now: {own['n_missed']}.")
    echo_wrapped(describe_recall(answer["estimate"]))


def _read_marks(segment: Mapping[str, Any], number: str) -> list[dict[str, Any]]:
    typer.echo(f"\n{number}", err=True)
    for line in numbered_words(segment["words"], width()):
        typer.echo(line, err=True)
    while True:
        answer = read_line("  Identifiers: ") if sys.stdin.isatty() else _piped_line()
        marks = []
        for part in filter(None, (each.strip() for each in answer.split(","))):
            words, _, letter = part.rpartition(" ")
            span = read_range(words.strip(), len(segment["words"]))
            if span is None or letter not in LABEL_KEYS:
                break
            marks.append(
                {"segment": segment["id"], "words": list(span), "label": LABEL_KEYS[letter]}
            )
        else:
            return marks
        typer.echo("  Write words and a letter, such as 3-4 p.", err=True)


def _piped_line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip()
