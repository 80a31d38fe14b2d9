"""`fieldscribe transcript`: print or save the transcript of a job.

ServiceError
└── Misused
    └── TranscriptNotReady
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from service.commands.connection import connect
from service.commands.options import AsJson, JobId
from service.errors import Misused, OutputNotWritable
from service.exports import Format
from service.exports.files import write_whole


class TranscriptNotReady(Misused):
    """The job has no transcript: it has not ended yet, or it did not succeed."""

    code = "transcript_not_ready"


def transcript_command(
    job_id: JobId,
    format: Annotated[
        Format, typer.Option(metavar="FORMAT", help="json, txt, vtt or srt.")
    ] = Format.TXT,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write; by default, standard output."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the transcript of a job.

    The transcript is identified: it holds everything that people said, names included.
    """
    with connect(as_json) as client:
        job = client.get(f"/v1/jobs/{job_id}")
        if job["transcript_id"] is None:
            raise TranscriptNotReady(f"The job has no transcript: it is {job['status']}.")
        chosen = Format.JSON if as_json else format
        response = client.request(
            "GET", f"/v1/transcripts/{job['transcript_id']}", params={"format": str(chosen)}
        )
        if out is None:
            sys.stdout.write(response.text)
            return
        try:
            write_whole(out, response.text)
        except OSError as error:
            raise OutputNotWritable(
                f"The transcript cannot be written ({error.strerror})."
            ) from None
