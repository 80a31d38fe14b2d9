"""`fieldscribe deidentify`: propose the identifying spans of one transcript."""

from pathlib import Path
from typing import Annotated, Any

import typer

from models.deidentification.occurrences import Detector, Findings, KnownEntity, SpokenSegment
from models.deidentification.reading import parse_entity_roster, parse_transcript
from service.commands.console import Row, print_json, print_table, report_errors
from service.commands.lists import read_text
from service.commands.options import AsJson, WeightsFolder
from service.errors import RosterNotReadable, TranscriptNotReadable

MAX_TRANSCRIPT_BYTES = 200 << 20
MAX_ROSTER_BYTES = 20 << 20

NamedEntityModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|FOLDER|none",
        help="Named-entity model: a spaCy pipeline; hf:FOLDER, gliner:FOLDER or presidio, also "
        "several separated by commas; or none to use rules alone. By default, en_core_web_sm if it "
        "is installed.",
    ),
]


def deidentify_command(
    transcript: Annotated[
        Path, typer.Argument(metavar="TRANSCRIPT.json", help="A transcript in JSON.")
    ],
    weights: WeightsFolder,
    roster: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV file of the study's names, with the columns kind (person, organisation or "
            "place), code, name and aliases (separated by ';').",
        ),
    ] = None,
    model: NamedEntityModel = None,
    flags: Annotated[bool, typer.Option("--flags", help="Also list indirect identifiers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Propose the identifying spans of a transcript.

    A person decides on them. Changes nothing and does not find everything: read the whole
    transcript before you share it.
    """
    with report_errors(as_json):
        text = read_text(transcript, "transcript", TranscriptNotReadable, MAX_TRANSCRIPT_BYTES)
        segments = parse_transcript(text)
        entities: list[KnownEntity] = []
        if roster is not None:
            entities = parse_entity_roster(
                read_text(roster, "roster", RosterNotReadable, MAX_ROSTER_BYTES)
            )
        from models.deidentification.detect import detect
        from models.deidentification.optional_detectors import load_detectors

        detectors: list[Detector] = load_detectors(model, weights)
        findings = detect(segments, entities, detectors)
    for note in findings.notes:
        typer.echo(note, err=True)
    if as_json:
        print_json(findings_to_json(findings, with_flags=flags))
    else:
        print_findings(findings, segments, with_flags=flags)


def findings_to_json(findings: Findings, *, with_flags: bool) -> dict[str, Any]:
    """`segment` counts from 0; `segment_id` is the segment's id in the transcript."""
    document: dict[str, Any] = {
        "occurrences": [
            {
                "segment": o.segment,
                "segment_id": o.segment_id,
                "start": o.start,
                "end": o.end,
                "words": o.words,
                "label": o.label,
                "tier": o.tier,
                "score": o.score,
                "rule": o.rule,
                "entity": o.entity,
            }
            for o in findings.occurrences
        ]
    }
    if with_flags:
        document["flags"] = [
            {
                "segment": flag.segment,
                "segment_id": flag.segment_id,
                "start": flag.start,
                "end": flag.end,
                "cue": flag.cue,
            }
            for flag in findings.flags
        ]
    return document


def print_findings(findings: Findings, segments: list[SpokenSegment], *, with_flags: bool) -> None:
    rows = [
        Row(
            (
                o.segment_id,
                o.label,
                o.tier,
                o.rule,
                segments[o.segment].text[o.start : o.end],
            )
        )
        for o in findings.occurrences
    ]
    if with_flags:
        rows += [
            Row(
                (
                    flag.segment_id,
                    "INDIRECT",
                    "flag",
                    flag.cue,
                    segments[flag.segment].text[flag.start : flag.end],
                )
            )
            for flag in findings.flags
        ]
    print_table(("segment", "label", "tier", "rule", "text"), rows)
