"""CSV: a row per segment, for spreadsheets and scripts."""

import csv
import io

from models.transcript import Transcript
from service.exports.options import ExportOptions, Label
from service.exports.paragraphs import paragraphs

COLUMNS = ("study", "session", "status", "segment", "start", "end", "speaker", "role", "text")
BYTE_ORDER_MARK = "\ufeff"  # without it, Excel reads UTF-8 as the local code page


def csv_table(transcript: Transcript, label: Label, options: ExportOptions) -> str:
    """`status` is `identified` or the number of the release; times are in seconds."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for each in paragraphs(transcript, options):
        role = label.roles.get(each.speaker, "")
        times = (f"{each.start:.3f}", f"{each.end:.3f}")
        place = (label.study or "", label.session, label.status, each.segment)
        writer.writerow((*place, *times, each.speaker, role, each.text))
    return BYTE_ORDER_MARK + file.getvalue()
