"""The residual-risk report of a release as a document, for people."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from models.deidentification.occurrences import LABELS
from models.deidentification.risk_report import AUDIO, CONTEXTS, RiskReport, Sample
from service.exports.docx import Heading, Table, report_docx
from service.exports.options import Label

DATES = {
    "keep_year": "Only the year of each date is kept.",
    "shift": "Each participant's dates are shifted by a secret number of days, up to 180. Years "
    "that are mentioned on their own are kept.",
    "generalise": "Only the part of the decade of each date is kept.",
}
INDIRECT = {
    "uniqueness": "being the only one, or one of a few",
    "public_role": "public office",
    "origin": "where a person or their people come from",
    "offence": "offences and courts",
    "media": "being in the news",
    "event": "fires, floods and other public events",
    "award": "awards",
    "family": "an unusual family",
}
FOUND_BY = {
    "person": "a reviewer, in the text",
    "alias": "another spelling that a reviewer added",
    "sample": "the second reader",
}


def risk_report_docx(report: RiskReport, language: str = "en") -> bytes:
    label = Label(session=report.session, study=report.study, release=report.release)
    return report_docx(f"Residual-risk report: {label.title}", _blocks(report), label, language)


def _blocks(report: RiskReport) -> Iterator[Heading | Table | str]:
    yield (
        "This report belongs to a de-identified transcript. It says what was replaced, who decided "
        "that, and what in the text could still identify somebody. It contains nothing that was "
        "replaced."
    )
    yield (
        "The transcript is coded, not anonymous: the study keeps a linkage store that connects "
        "pseudonyms with names, under a key and an access right of its own. Anybody who holds that "
        "key can identify people."
    )
    yield (
        f"The release was made for {CONTEXTS.get(report.context, report.context)}. For other "
        "readers, who may know more about the people, judge the risk again."
    )
    yield Heading("What was replaced")
    yield from _replaced(report)
    yield Heading("How it was decided")
    yield from _decided(report)
    yield Heading("What a second reader found")
    yield _describe_sample(report.sample)
    yield Heading("What could still identify somebody")
    yield from _remaining(report)
    yield Heading("How it was made")
    yield (
        f"Version {report.transcript_version} of the transcript, Fieldscribe {report.fieldscribe}, "
        f"de-identification {_listed(report.stages) or 'by hand only'}."
    )


def _replaced(report: RiskReport) -> Iterator[Table | str]:
    states: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for count in report.counts:
        states[count.label][count.state] += count.n
    rows = [
        (label, LABELS.get(label, ""), str(by_state["accepted"]), str(by_state["rejected"]))
        for label, by_state in sorted(states.items())
    ]
    if not rows:
        yield "Nothing was replaced: no mention was suggested or added in the transcript."
        return
    yield Table(
        ("Label", "What it is", "Replaced", "Left as it is"), rows, (1900, 4138, 1700, 1900)
    )
    yield (
        f"{report.entities_replaced} of the study's {report.entities_of_study} people, places and "
        "organisations occur. Each has the same pseudonym in every release of the study. "
        f"{DATES.get(report.dates, '')}"
    )


def _decided(report: RiskReport) -> Iterator[Table | str]:
    reviewers = _listed(f"{n} with the role {role}" for role, n in report.reviewers.items())
    people = f"People who decided: {reviewers}. " if reviewers else ""
    yield (
        f"{people}Programs only suggest. A person accepted or rejected each mention, or the study "
        "lists the name as one to replace always or never."
    )
    if not report.has_model:
        yield (
            "No mention was found by a named-entity model. If none is installed, programs have "
            "missed more names than usual: by rules alone, about one in seven of those on no "
            "roster."
        )
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for count in report.counts:
        found[count.rule][count.state] += count.n
    rows = [
        (
            FOUND_BY.get(rule, rule.replace("_", " ")),
            str(by_state["accepted"]),
            str(by_state["rejected"]),
        )
        for rule, by_state in sorted(found.items())
    ]
    if rows:
        yield Table(("Found by", "Replaced", "Left as it is"), rows, (5638, 2000, 2000))


def _describe_sample(sample: Sample | None) -> str:
    if sample is None:
        return (
            "No second person has read a sample of the transcript, so nobody knows how much the "
            "review missed."
        )
    who = "A second person" if sample.is_independent else "Somebody who had also reviewed it"
    read = f"{who} read {sample.segments} segments without seeing the mentions"
    if sample.recall is None:
        return f"{read}. They contain no identifier, so the sample says nothing about the rest."
    missed = f"{sample.missed} were missing" if sample.missed != 1 else "1 was missing"
    return (
        f"{read}. Of the {sample.found + sample.missed} identifiers there, {missed} and were "
        f"added. The review therefore found about {sample.recall:.0%} of all identifiers; with "
        f"95 % confidence between {sample.low:.0%} and {sample.high:.0%}."
    )


def _remaining(report: RiskReport) -> Iterator[Table | str]:
    left = report.remaining
    if not left.is_cased:
        yield (
            "The text has no capitals. Names look like other words there, and programs miss many "
            "of them: read the whole transcript."
        )
    indirect = _listed(f"{n} {INDIRECT.get(cue, cue)}" for cue, n in left.indirect.items())
    suggested = _listed(f"{n} {label}" for label, n in left.suggestions.items())
    pronouns = _listed(f"{n} {name.split(',')[0]}" for name, n in left.pronouns.items())
    rows = [
        (
            "Identifiers that the rules suggest and nobody has decided on",
            suggested or "none",
            "Look at each before you share the text.",
        ),
        (
            "Capitalised words that are in no dictionary",
            str(left.n_unknown_words),
            "Missed names are among them. The words are listed below.",
        ),
        (
            "Names of the study that are also common words, with a capital",
            str(report.common_names_left),
            "Such as Hope or June: check that they mean the word, not the person.",
        ),
        (
            "Numbers of four digits or more",
            str(left.long_numbers),
            "They may be years, amounts, or part of a telephone or record number.",
        ),
        ("Ages of 90 and over", str(left.ages_from_90), "Few people are that old."),
        (
            "Indirect identifiers",
            indirect or "none",
            "Harmless alone. Three or more about one person can identify them; at most "
            f"{left.densest_indirect} are within 500 words.",
        ),
        (
            "Gendered and other pronouns",
            pronouns or "none",
            "They are not changed: the text says whether people are women or men.",
        ),
        (
            "Whisper's confidence near replacements",
            "unknown" if left.confidence_nearby is None else f"{left.confidence_nearby:.0%}",
            "Where it is low, names may be spelt as other words. Listen there.",
        ),
    ]
    yield Table(("What", "In the text", "What it means"), rows, (3300, 2200, 4138))
    if left.unknown_words:
        words = _listed(f"{word.text} ({word.n})" for word in left.unknown_words)
        yield f"Capitalised words in no dictionary, with their counts: {words}."
    yield (
        "What people said can identify them even without names: their work, their illness, their "
        "family, what happened to them. Only a person can judge that."
    )
    yield AUDIO.get(report.audio, report.audio)


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)
