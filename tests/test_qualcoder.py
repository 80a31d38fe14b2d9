"""QualCoder's own import reads our projects.

QualCoder is in no package index, and its licence is the LGPL, so its source is not part of this
repository: `scripts/test_qualcoder` fetches the files of one commit and runs this. To try another
version, name its folder `src` in QUALCODER_SOURCE.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.fetch_qualcoder import FOLDER, fetch
from service.exports import ExportOptions, Label
from service.exports.options import ProjectProfile
from service.exports.qdpx import Source, write_project
from tests.export_cases import CASES
from tests.test_exported_recordings import two_recordings

SOURCE = Path(os.environ.get("QUALCODER_SOURCE") or FOLDER / "src")
needs_qualcoder = pytest.mark.skipif(not SOURCE.is_dir(), reason="run scripts/test_qualcoder first")
LABEL = Label(session="INT-07", study="PEER", version=3, roles={"P07": "participant"})

# Qt and QualCoder's windows are replaced; its tables are those that it creates for a new project.
IMPORT = """
import builtins, json, re, sqlite3, sys, tempfile
from pathlib import Path
from unittest.mock import MagicMock

project, source = sys.argv[1:]
sys.path.insert(0, source)
builtins._ = lambda text: text
windows = ("refi_export_line_endings", "refi_export_endings", "colour_selector")
names = ["PyQt6", "PyQt6.QtWidgets", "PyQt6.QtCore", "PyQt6.QtGui", "qtawesome", "vlc"]
names += ["qualcoder.GUI", "qualcoder.helpers"]
names += [f"qualcoder.GUI.ui_dialog_{window}" for window in windows]
sys.modules.update({name: MagicMock() for name in names})
package = type(sys)("qualcoder")
package.__path__ = [f"{source}/qualcoder"]
sys.modules["qualcoder"] = package
dialogs = sys.modules["PyQt6"].QtWidgets
dialogs.QDialog = type("QDialog", (), {"__init__": lambda self, *_: None})
dialogs.QFileDialog.getOpenFileName.return_value = (project, True)

folder = tempfile.mkdtemp()
for name in ("documents", "audio", "images", "video"):
    Path(folder, name).mkdir()
code = Path(source, "qualcoder", "__main__.py").read_text(encoding="utf-8")
code = code[code.index("CREATE TABLE project") - 200 : code.index("# Create table coder_names")]
connection = sqlite3.connect(":memory:")
for call in re.findall(r'execute\\(\\s*((?:"[^"]*"\\s*)+)', code):
    statement = "".join(re.findall(r'"([^"]*)"', call))
    if statement.startswith("CREATE"):
        connection.execute(statement)


class App(MagicMock):
    settings = {"codername": "me", "directory": folder, "ai_enable": "False"}
    project_path = folder
    conn = connection


from qualcoder.refi import RefiImport

RefiImport(App(), MagicMock(), "qde")
tables = ("source", "cases", "case_text", "code_text", "code_name", "attribute")
print("READ", json.dumps({t: connection.execute(f"select * from {t}").fetchall() for t in tables}))
"""


def imported(path: Path) -> dict[str, list[list[object]]]:
    """The rows of QualCoder's tables after the import."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(path), str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tables: dict[str, list[list[object]]] = json.loads(
        re.findall(r"^READ (.*)$", done.stdout, re.M)[0]
    )
    return tables


@needs_qualcoder
@pytest.mark.parametrize("case", CASES)
def test_each_speaker_is_a_case_with_the_text_of_his_turns(case, tmp_path):
    path = tmp_path / "PEER.qdpx"
    made = CASES[case]()
    options = ExportOptions(project=ProjectProfile.QUALCODER)
    with path.open("wb") as file:
        write_project(file, [Source(made, LABEL)], options)
    tables = imported(path)
    names = {row[0]: row[1] for row in tables["cases"]}

    ((_, name, text, *_),) = tables["source"]
    assert name == "INT-07.v3.identified"
    said = [segment for segment in made.segments if segment.text.strip()]
    assert len(tables["case_text"]) == len(said) and not tables["code_text"]
    for row in tables["case_text"]:
        covered = str(text)[int(str(row[3])) : int(str(row[4]))]
        speaker = str(names[row[1]]).removeprefix("INT-07 ").replace(":", "-")
        assert covered.split("] ", 1)[1].startswith(f"{speaker}: ") and "\n" not in covered


@needs_qualcoder
def test_a_recording_comes_with_its_transcript_whose_speakers_are_codes_for_any_program(tmp_path):
    path, recording = tmp_path / "PEER.qdpx", tmp_path / "recording.wav"
    recording.write_bytes(b"RIFF")
    with path.open("wb") as file:
        write_project(file, [Source(CASES["interview"](), LABEL, (recording,))], ExportOptions())
    tables = imported(path)

    assert [row[1] for row in tables["source"]] == [
        "INT-07.v3.identified.wav",
        "INT-07.v3.identified.wav.txt",
    ]
    assert len(tables["code_text"]) == 5


@needs_qualcoder
def test_a_session_of_several_recordings_comes_with_all_of_them(tmp_path):
    path, recordings = tmp_path / "PEER.qdpx", [tmp_path / f"{n}.wav" for n in (1, 2)]
    for recording in recordings:
        recording.write_bytes(b"RIFF")
    with path.open("wb") as file:
        source = Source(two_recordings(), LABEL, tuple(recordings))
        write_project(file, [source], ExportOptions(project=ProjectProfile.QUALCODER))
    tables = imported(path)

    texts = {str(row[1]): row[2] for row in tables["source"] if str(row[1]).endswith(".txt")}
    assert texts == {
        "INT-07.v3.identified recording 1.wav.txt": "[00:00:01] I1: Where were we?\n"
        "[00:00:29] P07: At the\n",
        "INT-07.v3.identified recording 2.wav.txt": "[00:00:00] P07: hospital.\n"
        "[00:00:12] I1: And then?\n",
    }
    assert len(tables["source"]) == 4 and len(tables["case_text"]) == 4


def test_a_file_of_another_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="LICENSE.txt is not that of QualCoder"):
        fetch(tmp_path, lambda name: b"another version")
    assert not list(tmp_path.iterdir())
