"""The files of a release: the de-identified transcript in every format, and its report."""

from models.deidentification.risk_report import RiskReport
from models.transcript import Transcript
from service.exports import DOCX, SPECS, Format, Label, render
from service.exports.risk_report import risk_report_docx

REPORT = "report"  # a format of releases only
RELEASE_FORMATS = (*map(str, Format), REPORT)


def render_release(transcript: Transcript, report: RiskReport) -> dict[str, bytes]:
    """Render every file of a release, by format."""
    label = release_label(report.study, report.session, report.release, transcript)
    files = {str(format): render(transcript, format, label) for format in Format}
    return {**files, REPORT: risk_report_docx(report, transcript.language)}


def release_label(study: str | None, session: str, number: int, transcript: Transcript) -> Label:
    return Label(session=session, study=study, release=number, roles=transcript.roles)


def release_file_name(session: str, number: int, format: str) -> str:
    """`INT-07.release-2.docx`"""
    extension = "report.docx" if format == REPORT else SPECS[Format(format)].extension
    return f"{session}.release-{number}.{extension}"


def media_type(format: str) -> str:
    return DOCX if format == REPORT else SPECS[Format(format)].media_type
