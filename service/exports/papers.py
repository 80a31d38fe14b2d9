"""The papers about a study: methods, data management, an ethics annex, participant information.

They are written from what is recorded and from what the program does. Where nothing is recorded,
they say so: a promise that nobody can check is left for the researcher to make.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from models.study_facts import Accuracy, ModelUse, Recall, Share, StudyFacts
from service.exports.docx import Heading, Table, report_docx
from service.exports.options import Label
from service.exports.risk_report import DATES

Paper = Literal["methods", "data_management", "ethics", "participants"]
PaperFormat = Literal["docx", "txt"]
PAPERS: tuple[Paper, ...] = get_args(Paper)
Block = Heading | Table | str

TITLES: dict[Paper, str] = {
    "methods": "Methods: transcription and de-identification",
    "data_management": "Data management",
    "ethics": "Ethics annex: where the data is, who can read it, how somebody withdraws",
    "participants": "Information for participants: your recording and what you say",
}
SESSIONS = {
    "interview": ("interview", "interviews"),
    "focus_group": ("focus group", "focus groups"),
}
CONTEXTS = {
    "team": "for the study's team",
    "member_checking": "for participants who check their own transcripts",
    "repository": "for a data repository",
    "publication": "for publication",
}
SCOPES = {
    "recording": "being recorded",
    "transcription": "transcription",
    "quotation": "quotation",
    "sharing": "sharing de-identified transcripts",
    "future_use": "use in future research",
    "recontact": "being contacted again",
}
ROLES = {
    "owner": "owner of the installation: everything, in every study",
    "researcher": "recordings, identified transcripts, reviews and releases of the study",
    "coder": "releases only: de-identified transcripts",
    "listener": "releases, and audio without the passages that identify somebody",
    "custodian": "the names behind pseudonyms, each time with a reason that is recorded",
    "deidentifier": "a program: transcripts that wait for proposals of what to replace",
    "admin": "no content: accounts, studies and the state of the service",
}
CLASSES = {
    "identified": "Recordings and identified transcripts",
    "deidentified": "De-identified transcripts",
    "linkage": "Names behind the codes",
    "consent": "Records of consent",
}
RULES = {
    "recording": "transcribing a recording",
    "release": "making a release",
    "export": "exporting identified material",
    "approval": "an approval that is valid",
}


@dataclass(frozen=True)
class PaperLabel(Label):
    """Of a document about a study, which holds nothing from its transcripts."""

    @property
    def status(self) -> str:
        return "paper"

    @property
    def marking(self) -> str:
        return ""

    @property
    def subject(self) -> str:
        return "About a study"

    @property
    def title(self) -> str:
        return self.study or ""


def paper_docx(paper: Paper, facts: StudyFacts) -> bytes:
    label = PaperLabel(session="", study=facts.study)
    return report_docx(f"{facts.study}. {TITLES[paper]}", write_paper(paper, facts), label, "en")


def paper_text(paper: Paper, facts: StudyFacts) -> bytes:
    """The paper as plain text, for a form: a paragraph a line, columns separated by tabs."""
    lines = [f"{facts.study}. {TITLES[paper]}"]
    for block in write_paper(paper, facts):
        if isinstance(block, Heading):
            lines += ["", block.text.upper()]
        elif isinstance(block, Table):
            lines += ["", *("\t".join(row) for row in (block.titles, *block.rows))]
        else:
            lines += ["", block]
    return ("\n".join(lines) + "\n").encode()


def write_paper(paper: Paper, facts: StudyFacts) -> Iterator[Block]:
    writers: dict[Paper, Callable[[StudyFacts], Iterator[Block]]] = {
        "methods": _methods,
        "data_management": _data_management,
        "ethics": _ethics,
        "participants": _participants,
    }
    yield from writers[paper](facts)
    yield f"Written on {facts.at:%d %B %Y} by Fieldscribe {facts.fieldscribe} from its records."


# --- methods --------------------------------------------------------------------------------------


def _methods(facts: StudyFacts) -> Iterator[Block]:
    yield Heading("Material")
    yield _material(facts)
    yield Heading("Transcription")
    if not facts.models:
        yield "No session has been transcribed yet."
    for use in facts.models:
        yield _model(use)
    if facts.languages:
        spoken = _listed(f"{code} ({n})" for code, n in facts.languages.items())
        yield f"Languages of the transcripts, with the number of sessions: {spoken}."
    yield Heading("Correction")
    yield from _correction(facts)
    yield Heading("Accuracy")
    yield _accuracy(facts.accuracy)
    yield Heading("De-identification")
    yield from _deidentification(facts)


def _material(facts: StudyFacts) -> str:
    kinds = _listed(
        _counted(n, *SESSIONS.get(kind, (kind, kind))) for kind, n in facts.sessions.items()
    )
    if not kinds:
        return "No session is recorded."
    recordings = _counted(facts.n_recordings, "recording", "recordings")
    return (
        f"The study has {kinds}, with {recordings} of {_duration(facts.seconds)} altogether. "
        f"{_counted(facts.n_transcribed, 'session has', 'sessions have')} been transcribed."
    )


def _model(use: ModelUse) -> str:
    versions = _listed(f"{name} {number}" for name, number in use.versions)
    return (
        f"{_counted(use.n, 'session was', 'sessions were')} transcribed with the Whisper model "
        f"{use.whisper_model} (SHA-256 {use.whisper_sha256[:16]}…), and speakers were told apart "
        f"with the diarisation pipeline {use.diarisation_pipeline} (SHA-256 "
        f"{use.diarisation_sha256[:16]}…), by Fieldscribe {use.fieldscribe}"
        + (f" with {versions}." if versions else ".")
        + " The models ran on the service's own computers."
    )


def _correction(facts: StudyFacts) -> Iterator[Block]:
    if not facts.n_segments:
        yield "There is nothing to correct yet."
        return
    changed, checked = (_share(n, facts.n_segments) for n in (facts.n_changed, facts.n_checked))
    yield (
        f"Of {facts.n_segments:,} segments in the transcripts, people changed "
        f"{facts.n_changed:,} ({changed}). They compared {facts.n_checked:,} ({checked}) with the "
        "recording and marked them as checked."
    )
    if facts.shares:
        yield Table(
            ("Person", "Segments changed", "Segments checked"),
            [_person(share, facts.n_segments) for share in facts.shares],
            (4638, 2500, 2500),
        )


def _person(share: Share, n_segments: int) -> tuple[str, str, str]:
    return (
        f"{share.role} {share.number}",
        f"{share.n_changed:,} ({_share(share.n_changed, n_segments)})",
        f"{share.n_checked:,} ({_share(share.n_checked, n_segments)})",
    )


def _accuracy(measured: Accuracy | None) -> str:
    if measured is None:
        return (
            "The accuracy in this study has not been measured: no segment has been checked with "
            "its recording."
        )
    rate = f"{measured.n_errors / measured.n_words:.1%}"
    interval = (
        f" (95 % interval over transcripts: {measured.low:.1%} to {measured.high:.1%})"
        if measured.low is not None and measured.high is not None
        else ""
    )
    return (
        f"In the {_counted(measured.n_segments, 'segment', 'segments')} of "
        f"{_counted(measured.n_transcripts, 'transcript', 'transcripts')} that people checked with "
        f"the recording, the models had {measured.n_errors:,} wrong, missing or invented words in "
        f"{measured.n_words:,}: a word error rate of {rate}{interval}. Case and punctuation do not "
        "count. People chose which segments to check, so the rate elsewhere may differ."
    )


def _deidentification(facts: StudyFacts) -> Iterator[Block]:
    if not facts.mentions:
        yield "No transcript has been de-identified yet."
        return
    n_open = facts.mentions.get("suggested", 0)
    reviewers = _listed(f"{n} with the role {role}" for role, n in facts.reviewers.items())
    names = (
        "codes" if facts.names == "codes" else "codes or chosen names that are not gender-specific"
    )
    yield (
        f"Programs ({_listed(facts.stages) or 'none'}) suggested passages that identify somebody, "
        f"and people decided on each: {facts.mentions.get('accepted', 0):,} were replaced and "
        f"{facts.mentions.get('rejected', 0):,} left as they are"
        + (f"; {n_open:,} are undecided. " if n_open else ". ")
        + (f"People who decided: {reviewers}. " if reviewers else "")
        + f"People were replaced by {names}, other names by codes. {DATES.get(facts.dates, '')}"
    )
    yield _recall(facts.recall)
    if facts.releases:
        made = _listed(f"{n} {CONTEXTS.get(who, who)}" for who, n in facts.releases.items())
        yield f"Releases, each frozen after its review was complete: {made}."
    else:
        yield "No de-identified transcript has been released yet."


def _recall(found: Recall | None) -> str:
    if found is None:
        return (
            "No second person has read a sample without seeing the suggestions, so nobody has "
            "measured how much the review missed."
        )
    total = found.n_found + found.n_missed
    return (
        f"Second readers read {found.n_segments:,} randomly drawn segments without seeing the "
        f"suggestions. The review had found {found.n_found:,} of the {total:,} identifiers there "
        f"({found.n_found / total:.0%}; 95 % interval {found.low:.0%} to {found.high:.0%})."
    )


# --- data management ------------------------------------------------------------------------------


def _data_management(facts: StudyFacts) -> Iterator[Block]:
    yield _material(facts)
    yield Heading("Storage")
    place = (
        "in object storage, encrypted before they leave the service's own computer"
        if facts.in_bucket
        else "on the service's own computer in an encrypted store"
    )
    yield (
        f"Recordings and transcripts are kept {place} (AES-256-GCM). Identified material, "
        "de-identified material and the table that links pseudonyms with names are three separate "
        "stores with three keys and separate access rights. The database holds ids, codes, states "
        "and times, but nothing that was said, and no names of participants."
    )
    yield _backup(facts)
    yield Heading("Access")
    yield from _access(facts)
    yield Heading("Formats")
    formats = _listed(facts.formats)
    yield (
        f"De-identified transcripts are released as {formats}."
        if formats
        else "Nothing has been released yet."
    )
    yield Heading("Audit trail")
    yield _audit(facts)
    yield from _retention(facts)


def _backup(facts: StudyFacts) -> str:
    if facts.backup_at is None:
        return "No backup is recorded."
    return (
        f"The latest backup was made on {facts.backup_at:%d %B %Y}. Data and keys are backed up "
        "in two archives; neither can be read without the other."
    )


def _access(facts: StudyFacts) -> Iterator[Block]:
    rows = [
        (role, str(n), ROLES.get(role, "")) for role, n in facts.readers.items() if role in ROLES
    ]
    if not rows:
        yield "Nobody has access at present."
        return
    yield Table(("Role", "Valid accounts and tokens", "Can read"), rows, (1700, 2300, 5638))
    yield (
        "The names behind pseudonyms can be exported to the study's data custodian only, encrypted "
        "to their key."
        if facts.has_custodian_key
        else "No data custodian's key is set, so the names behind pseudonyms cannot be exported."
    )


def _audit(facts: StudyFacts) -> str:
    return (
        "Every reading of identified text, every playing of audio, every look-up of a name, every "
        "export, change and deletion is recorded with its time and account in a trail whose "
        f"entries are chained by checksums. It has {facts.n_audit_entries:,} entries about this "
        "study. They contain no text and no names."
    )


# --- ethics ---------------------------------------------------------------------------------------


def _ethics(facts: StudyFacts) -> Iterator[Block]:
    yield Heading("Approvals")
    if facts.approvals:
        yield Table(
            ("Committee", "Site", "Reference", "From", "Until"),
            [
                (
                    each.committee,
                    each.site or "all",
                    each.number,
                    each.valid_from.isoformat(),
                    "open" if each.valid_until is None else each.valid_until.isoformat(),
                )
                for each in facts.approvals
            ],
            (3638, 2000, 1600, 1200, 1200),
        )
    else:
        yield "No approval of an ethics committee is recorded."
    yield Heading("Consent")
    yield from _consent(facts)
    yield Heading("Where the data is")
    yield Table(("What", "Where", "Identifies people"), _places(facts), (3000, 4738, 1900))
    storage = (
        "The encrypted files are in object storage, whose operator cannot read them. "
        if facts.in_bucket
        else ""
    )
    yield (
        f"{storage}Nothing that can be read is sent to another company: the models run on the "
        "service's own computers, and there is no telemetry. Material leaves only when somebody "
        "downloads it, which is recorded."
    )
    yield Heading("Who can read it")
    yield from _access(facts)
    yield _audit(facts)
    yield Heading("How somebody withdraws")
    yield from _withdrawal(facts)
    yield _backup(facts)
    yield from _retention(facts)


def _places(facts: StudyFacts) -> list[tuple[str, str, str]]:
    recordings = _counted(facts.n_recordings, "recording", "recordings")
    n_releases = sum(facts.releases.values())
    return [
        (
            f"{recordings}, {_counted(facts.n_transcribed, 'transcript', 'transcripts')}",
            "identified store, encrypted, a key for each recording and transcript",
            "yes",
        ),
        (
            _counted(n_releases, "release", "releases"),
            "de-identified store, encrypted, a key for each release",
            "coded",
        ),
        (
            f"names, contacts and attributes of {facts.n_participants} participants",
            "linkage store, encrypted, a key for each person",
            "yes",
        ),
        ("codes, states, times, consents", "database", "by codes only"),
    ]


def _consent(facts: StudyFacts) -> Iterator[Block]:
    if not facts.n_participants:
        yield "No participants are recorded, so consent is not checked by the program."
        return
    sheets = _listed(facts.sheets)
    yield (
        f"{_counted(facts.n_participants, 'participant is', 'participants are')} recorded"
        + (f", with versions {sheets} of the information sheet" if sheets else "")
        + f"; {facts.n_withdrawn} of them have withdrawn. Their latest consents cover:"
    )
    yield Table(
        ("Consent to", "Participants"),
        [
            (meaning, f"{facts.consents.get(scope, 0)} of {facts.n_participants}")
            for scope, meaning in SCOPES.items()
        ],
        (7138, 2500),
    )
    if facts.consent_warnings:
        rules = _listed(RULES.get(rule, rule) for rule in facts.consent_warnings)
        yield (
            f"Missing consent only causes a warning for: {rules}. Each time, that is recorded in "
            "the audit trail. Everything else is refused."
        )
    else:
        yield (
            "The program refuses to transcribe, release or export anything outside these consents."
        )


def _withdrawal(facts: StudyFacts) -> Iterator[Block]:
    yield (
        "A participant can withdraw at any time, in three degrees: taking part no further; having "
        "everything removed that identifies them (recordings, identified transcripts, names) while "
        "coded material stays; or having everything removed. In a focus group, what the person "
        "said is removed from the audio and the text, and the others' contributions stay. The keys "
        "of what is removed are destroyed first, so that no copy of the files can be read. The "
        "withdrawal ends with a signed certificate that says what was removed, how that was "
        "verified, and what was handed out before. Copies that people have downloaded must be "
        "recalled by the researcher: the certificate lists who has them."
    )
    yield f"So far {_counted(facts.n_withdrawn, 'participant has', 'participants have')} withdrawn."


# --- participants ---------------------------------------------------------------------------------


def _participants(facts: StudyFacts) -> Iterator[Block]:
    people = sum(n for role, n in facts.readers.items() if role in ("owner", "researcher"))
    yield (
        "The conversation is recorded. A program on the research team's own computer writes down "
        "what was said. Neither the recording nor the text is sent to another company. People of "
        "the team may compare the text with the recording and correct it."
    )
    yield (
        f"At present {_counted(people, 'account', 'accounts')} of the team can hear your recording "
        "or read the text with names in it. Each time somebody does so, the program records it. "
        "Recording and text are stored encrypted. Your name and your contact details are stored "
        "separately from what you said."
    )
    yield (
        "Before anybody else reads the text, names, places and other details that could identify "
        "you are replaced by codes or other names, and a person decides on each of them. Even so, "
        "people who know you well may recognise you by what you tell."
    )
    yield (
        "You can stop taking part at any time without giving a reason. You can ask for everything "
        "that identifies you to be deleted, or for everything you said to be deleted. In a group, "
        "your voice and your words are removed and the others' stay. You get a dated certificate "
        "of what was deleted. What has been published or handed out before cannot be taken back "
        "by the program; the certificate lists who received it."
    )
    if "member_checking" in facts.releases:
        yield "You can be sent your own transcript and ask for changes."
    yield from _retention(facts)


def _retention(facts: StudyFacts) -> Iterator[Block]:
    yield Heading("Retention")
    if not facts.retention:
        yield "No rule says yet how long the data is kept."
        return
    for rule in facts.retention:
        what = CLASSES.get(rule.data_class, rule.data_class)
        if rule.destroyed:
            yield f"{what} have been destroyed."
            continue
        then = "then destroyed" if rule.at_end == "destroy" else "then reviewed"
        due = f", until {rule.due_on:%d %B %Y}" if rule.due_on else ""
        basis = rule.basis.replace("_", " ")
        years = _counted(rule.years, "year", "years")
        yield f"{what} are kept for {years} after {basis}{due}, {then}."
    yield (
        "Nothing is destroyed by the clock alone: two people have to ask for it, and it ends with "
        "a signed certificate." + (" A legal hold blocks it at present." if facts.on_hold else "")
    )


# --- words ----------------------------------------------------------------------------------------


def _counted(n: int, one: str, several: str) -> str:
    return f"{n:,} {one if n == 1 else several}"


def _share(n: int, total: int) -> str:
    return f"{n / total:.0%}" if total else "0%"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 60:
        return _counted(minutes, "minute", "minutes")
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _listed(items: Iterable[str] | Mapping[str, object]) -> str:
    *most, last = [*items] or [""]
    return f"{', '.join(most)} and {last}" if most else last
