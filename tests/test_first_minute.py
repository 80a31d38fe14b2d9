"""How `fieldscribe transcribe` starts: what it imports and which processes it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.pyannote_guard import NOT_NEEDED

ROOT = Path(__file__).parent.parent

PROGRAM = """
import json, subprocess, sys
commands = []
start = subprocess.Popen.__init__
def record(self, command, *arguments, **options):
    commands.append([str(word) for word in command])
    start(self, command, *arguments, **options)
subprocess.Popen.__init__ = record
from service.commands.main import main
try:
    main()
finally:
    with open(sys.argv[1] + ".trace", "w") as file:
        json.dump({"modules": sorted(sys.modules), "commands": commands}, file)
"""


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The modules and child processes of one run with the demo weights."""
    folder = tmp_path_factory.mktemp("first")
    sound = ["-t", "8", "-i", str(ROOT / "demo" / "interview.flac")]
    subprocess.run(["ffmpeg", "-v", "error", *sound, str(folder / "INT-01.flac")], check=True)
    arguments = ["transcribe", str(folder / "INT-01.flac"), "--model", "demo"]
    program = PROGRAM.replace("sys.argv[1]", repr(str(folder / "run")))
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--out", str(folder / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "run.trace").read_text())


def test_a_transcription_imports_nothing_that_only_training_needs(traced):
    """pyannote.audio's own imports took four of the ten seconds of a short recording."""
    modules = set(traced["modules"])
    heavy = {"matplotlib", "pandas", "scipy.stats", "torch._dynamo", "transformers", "sympy"}

    assert {"torch", "pyannote.audio.pipelines.clustering"} <= modules
    assert modules & (heavy | set(NOT_NEEDED)) == set()


def test_a_short_recording_is_probed_decoded_and_measured_once_and_nothing_else_is_started(traced):
    """No child process imports torch: that would double the time of a short recording."""
    tools = [
        next(Path(word).name for word in command if Path(word).name in ("ffprobe", "ffmpeg"))
        for command in traced["commands"]
    ]

    assert sorted(tools) == ["ffmpeg", "ffprobe", "ffprobe"]


@pytest.mark.slow
def test_all_of_pyannote_audio_can_be_imported_after_its_models():
    program = (
        "from models.pyannote_guard import import_pyannote_audio, import_pyannote_models;"
        "import_pyannote_models();"
        "import sys; before = 'lightning' in sys.modules;"
        "audio = import_pyannote_audio();"
        "import lightning;"
        "print(before, issubclass(audio.Model, lightning.LightningModule))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert shown.stdout == "False True\n", shown.stderr
