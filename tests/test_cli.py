"""`fieldscribe transcribe` and `doctor` as a user types them, mostly with fake models."""

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.commands import transcribe as transcribe_command
from service.commands.main import app
from service.doctor import check_disk
from tests.audio_files import read_once
from tests.fakes import FakePipeline
from tests.test_batch import write_tone

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def known_readings():
    """The recordings of these tests are much alike."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        read_once(
            monkeypatch,
            "service.batch.reading.probe",
            "service.batch.reading.decode",
            "service.commands.transcribe.probe",
        )
        yield


@pytest.fixture(autouse=True)
def interrupts_arrive() -> Iterator[None]:
    """A shell ignores SIGINT in its background jobs, and this run may be one of them."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setattr(transcribe_command, "Pipeline", lambda *arguments: fake)
    return fake


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "INT-07.wav"
    write_tone(path, 2.0)
    return path


def transcribe(*arguments):
    return CliRunner().invoke(app, ["transcribe", "--model", "demo", *map(str, arguments)])


def test_a_recording_is_transcribed_into_all_formats_with_exit_code_0(
    pipeline, recording, tmp_path
):
    result = transcribe(recording, "--out", tmp_path / "out")

    assert result.exit_code == 0, result.output
    assert {path.suffix for path in (tmp_path / "out").glob("INT-07.*")} == {
        ".json",
        ".txt",
        ".vtt",
        ".srt",
    }


def test_data_goes_to_standard_output_and_progress_to_standard_error(pipeline, recording, tmp_path):
    result = transcribe(recording, "--out", tmp_path / "out", "--json")
    (session,) = json.loads(result.stdout)

    assert session["status"] == "done"
    assert session["recordings"] == [str(recording)]
    assert "RTFx" in result.stderr
    assert "identified" in result.stderr


def test_the_roster_is_recorded_in_the_transcript(pipeline, recording, tmp_path):
    people = tmp_path / "FG-1.roster"
    people.write_text("M1 moderator\n\nP01 participant\nP02 participant\n")
    result = transcribe(recording, "--out", tmp_path / "out", "--roster", people)
    made = json.loads((tmp_path / "out" / "INT-07.identified.json").read_text())

    assert result.exit_code == 0, result.output
    assert made["made_with"]["options"]["roster"] == [
        {"code": "M1", "role": "moderator"},
        {"code": "P01", "role": "participant"},
        {"code": "P02", "role": "participant"},
    ]


@pytest.mark.parametrize("text", ["M1\n", "M1 moderator\nM1 participant\n"])
def test_an_invalid_roster_is_refused(pipeline, recording, tmp_path, text):
    people = tmp_path / "FG-1.roster"
    people.write_text(text)
    result = transcribe(recording, "--out", tmp_path / "out", "--roster", people)

    assert result.exit_code == 2
    assert result.stderr.startswith("bad_roster: ")
    assert pipeline.transcribed == []


def test_warnings_are_shown_when_a_recording_is_finished(monkeypatch, recording, tmp_path):
    class WarningPipeline(FakePipeline):
        def transcribe(self, *arguments):
            made = super().transcribe(*arguments)
            return replace(made, warnings=("5 speakers were found where 6 were expected.",))

    monkeypatch.setattr(transcribe_command, "Pipeline", lambda *arguments: WarningPipeline())
    result = transcribe(recording, "--out", tmp_path / "out")

    assert "WARNING: 5 speakers were found where 6 were expected." in result.stderr


def test_one_line_says_how_long_a_group_will_take(pipeline, recording, tmp_path):
    other = tmp_path / "INT-08.wav"
    write_tone(other, 1.0)
    result = transcribe(recording, other, "--out", tmp_path / "out")
    lines = result.stderr.splitlines()

    assert lines[0] == "Loading the models."
    assert lines[1].startswith("INT-07 and 1 more: 0:00:03 of audio, about ")
    assert [line.split(":")[0] for line in lines[2:4]] == ["INT-07", "INT-08"]


def test_spoken_words_are_not_shown_during_transcription(pipeline, recording, tmp_path):
    result = transcribe(recording, "--out", tmp_path / "out")

    assert "Eva" not in result.output


def test_unreadable_files_are_listed_at_the_end_with_exit_code_1(pipeline, recording, tmp_path):
    bad = tmp_path / "INT-08.wav"
    bad.write_text("not a recording")
    result = transcribe(bad, recording, "--out", tmp_path / "out")

    assert result.exit_code == 1
    assert "1 of 2 failed" in result.stderr
    assert "INT-08: unreadable_audio: " in result.stderr
    assert (tmp_path / "out" / "INT-07.identified.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--language", "klingon"], "unknown_language"),
        (["--speakers", "0"], "bad_speaker_count"),
        (["--speakers", "4-2"], "bad_speaker_count"),
        (["--vocabulary", "missing.txt"], "vocabulary_not_readable"),
        (["--roster", "missing.txt"], "roster_not_readable"),
        (["--model", "enormous"], "unknown_model"),
    ],
)
def test_an_invalid_value_is_reported_in_one_line_with_exit_code_2(
    pipeline, recording, tmp_path, arguments, code
):
    result = transcribe(recording, "--out", tmp_path / "out", *arguments)

    assert result.exit_code == 2
    assert re.fullmatch(rf"{code}: [^\n]+\n", result.stderr)
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_refused_before_any_work(pipeline, recording, tmp_path):
    result = transcribe(recording, "--out", tmp_path / "out", "--format", "doc")

    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_reported_with_the_command_that_fetches_them(recording, tmp_path):
    result = CliRunner().invoke(
        app,
        [
            "transcribe",
            str(recording),
            "--out",
            str(tmp_path / "out"),
            "--weights",
            str(tmp_path / "none"),
            "--model",
            "small",
        ],
    )

    assert result.exit_code == 1
    assert "model_missing: " in result.stderr
    assert "fieldscribe models fetch small" in result.stderr


def test_an_error_is_printed_as_json_on_request(pipeline, recording, tmp_path):
    result = transcribe(recording, "--out", tmp_path / "out", "--speakers", "0", "--json")

    assert json.loads(result.stdout)["error"]["code"] == "bad_speaker_count"


def test_channels_can_be_split_mixed_or_decided_automatically(pipeline, recording, tmp_path):
    folders = [tmp_path / str(i) for i in range(2)]
    transcribe(recording, "--out", folders[0])
    transcribe(recording, "--out", folders[1], "--channels", "split")
    made = [next(folder.glob("*.json")).read_text() for folder in folders]

    assert [json.loads(text)["made_with"]["options"]["channels"] for text in made] == [
        "auto",
        "split",
    ]
    assert transcribe(recording, "--out", tmp_path, "--channels", "left").exit_code == 2


@pytest.mark.parametrize(("language", "code"), [("auto", None), ("German", "de"), ("EN", "en")])
def test_a_language_is_given_by_code_name_or_auto(pipeline, recording, tmp_path, language, code):
    result = transcribe(recording, "--out", tmp_path / "out", "--language", language)

    assert result.exit_code == 0, result.output
    made = json.loads(next((tmp_path / "out").glob("*.json")).read_text())
    assert made["made_with"]["options"]["language"] == code


def test_a_vocabulary_that_is_not_text_is_refused(pipeline, recording, tmp_path):
    vocabulary = tmp_path / "names.docx"
    vocabulary.write_bytes(b"PK\x03\x04\xff\xfe")
    result = transcribe(recording, "--out", tmp_path / "out", "--vocabulary", vocabulary)

    assert result.exit_code == 2
    assert "vocabulary_not_readable" in result.stderr


def test_the_demo_model_is_never_the_default(recording, tmp_path):
    result = CliRunner().invoke(
        app,
        ["transcribe", str(recording), "--out", str(tmp_path), "--weights", str(tmp_path / "w")],
    )

    assert "model_missing" in result.stderr


def test_the_doctor_prints_a_line_per_check_with_the_remedy(tmp_path):
    result = CliRunner().invoke(app, ["doctor", "--weights", str(tmp_path / "none")])

    assert result.exit_code == 1
    assert "ok      ffmpeg: ffmpeg version" in result.stdout
    assert "ok      sandbox: " in result.stdout
    assert "fieldscribe models fetch" in result.stdout


def test_the_doctor_prints_json_on_request(tmp_path):
    result = CliRunner().invoke(app, ["doctor", "--json", "--weights", str(tmp_path / "none")])
    checks = {check["name"]: check["status"] for check in json.loads(result.stdout)}

    assert checks["ffmpeg"] == "ok"
    assert checks["weights small"] == "problem"


def test_the_doctor_copes_with_folders_it_may_not_read(tmp_path, monkeypatch):
    def deny(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", deny)
    (disk,) = check_disk(tmp_path / "another's" / "weights")

    assert "free for weights" in disk.message


def test_help_does_not_load_torch():
    program = "import sys, service.commands.main; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("stage", ["ingest", "segment", "transcribe", "align", "diarise", "check"])
def test_an_interrupt_in_any_stage_ends_the_run_and_says_how_to_resume(
    pipeline, recording, tmp_path, monkeypatch, stage
):
    def interrupt(view, progress):
        if progress.stage == stage:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(transcribe_command.ProgressDisplay, "show_progress", interrupt)
    result = transcribe(recording, "--out", tmp_path / "out", "--json")

    assert result.exit_code == 130
    assert json.loads(result.stdout) == []
    assert "run the same command again" in result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".fieldscribe-identified",
        ".fieldscribe-key",
    }


def test_an_interrupt_that_a_library_swallows_still_ends_the_run(recording, tmp_path, monkeypatch):
    """Python ignores an interrupt in a destructor: a batch once ran on to its end after Ctrl-C."""

    class SwallowingPipeline(FakePipeline):
        def transcribe(self, *arguments, **options):
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
            return super().transcribe(*arguments, **options)

    monkeypatch.setattr(transcribe_command, "Pipeline", lambda *arguments: SwallowingPipeline())
    result = transcribe(recording, "--out", tmp_path / "out")

    assert result.exit_code == 130
    assert not list((tmp_path / "out").glob("INT*"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_before_the_work_begins_has_exit_code_130(
    pipeline, recording, tmp_path, monkeypatch
):
    """Loading torch and checking the weights take seconds."""

    def interrupt(*_):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(transcribe_command, "find_whisper", interrupt)
    result = transcribe(recording, "--out", tmp_path / "out")

    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


@pytest.mark.parametrize("name", ["\x1b[2JINT.wav", "INT\n1.wav", "I\udcffNT.wav", "[red]Zoë.wav"])
def test_a_file_name_cannot_control_the_terminal(pipeline, tmp_path, name):
    good, bad = tmp_path / name, tmp_path / f"bad {name}"
    write_tone(good, 1.0)
    bad.write_text("no recording")
    result = transcribe(
        os.fsencode(good).decode("utf-8", "surrogateescape"),
        bad,
        "--out",
        tmp_path / "out",
        "--json",
    )
    rows = json.loads(result.stdout)

    assert result.exit_code == 1
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert rows[0]["recordings"] == [str(good)]
    assert Path(rows[0]["outputs"][-1]).exists()
    lines = result.stderr.splitlines()
    assert "\x1b[2J" not in result.stderr
    assert len([line for line in lines if "RTFx" in line]) == 1
    assert len([line for line in lines if "bad " in line and "unreadable_audio" in line]) == 2


def test_another_name_for_a_transcript_is_said_aloud(pipeline, recording, tmp_path):
    transcribe(recording, "--out", tmp_path / "out")
    write_tone(recording, 3.0)
    result = transcribe(recording, "--out", tmp_path / "out", "--json")
    (row,) = json.loads(result.stdout)

    assert "another recording with this name, so this one's is called INT-07-2." in result.stderr
    assert "INT-07-2" in row["outputs"][0] and "INT-07-2" in row["warnings"][0]


@pytest.mark.slow
def test_an_interrupt_keeps_finished_sessions_and_says_so(tmp_path):
    """With a real process, the demo weights and a real SIGINT.

    INT-01 is finished before INT-03 is embedded, which takes seconds.
    """
    from scripts.make_interview import make_interview, write_wav

    out = tmp_path / "out"
    paths = [tmp_path / f"INT-0{i}.wav" for i in (1, 2, 3)]
    for path, seconds in zip(paths, (5, 10, 60), strict=True):
        write_wav(path, make_interview(5, seconds=seconds).samples)
    command = [sys.executable, "-c", "from service.commands.main import main; main()", "transcribe"]
    process = subprocess.Popen(
        [*command, *map(str, paths), "--model", "demo", "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (out / "INT-01.identified.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)

    assert process.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in out.glob("INT-0*")) == [
        f"INT-01.identified.{ending}" for ending in ("json", "srt", "statistics.txt", "txt", "vtt")
    ]


def test_an_output_folder_that_cannot_be_written_to_is_refused(pipeline, recording, tmp_path):
    (tmp_path / "taken").write_text("a file")
    result = transcribe(recording, "--out", tmp_path / "taken")

    assert result.exit_code == 2
    assert "output_not_writable" in result.stderr


def test_a_truncated_wav_file_leaves_no_output(pipeline, tmp_path):
    path = tmp_path / "INT-09.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(os.urandom(64_000))
    path.write_bytes(path.read_bytes()[:30_000])
    result = transcribe(path, "--out", tmp_path / "out")

    assert result.exit_code == 1
    assert "truncated_audio" in result.stderr
    assert not list((tmp_path / "out").glob("INT-09*"))


@pytest.mark.slow
def test_transcription_runs_without_a_network(tmp_path):
    """In a network namespace that has only a loopback device."""
    from scripts.make_interview import make_interview, write_wav

    recording = tmp_path / "INT-01.wav"
    write_wav(recording, make_interview(5, seconds=5).samples)
    program = (
        "import os; assert os.listdir('/sys/class/net') == ['lo'], os.listdir('/sys/class/net')"
    )
    command = ["transcribe", str(recording), "--model", "demo", "--out", str(tmp_path / "out")]
    inside = (
        f"{program}; import sys; sys.argv[1:] = {command!r};"
        "from service.commands.main import main; main()"
    )
    namespace = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c"]
    script = f'mount -t sysfs none /sys && ip link set lo up; exec {sys.executable} -c "$0"'
    result = subprocess.run(
        [*namespace, script, inside], capture_output=True, text=True, timeout=300, check=False
    )

    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "INT-01.identified.json").exists()


@pytest.mark.slow
def test_only_the_output_folder_is_written_to_and_libraries_print_nothing(tmp_path):
    """For a user without a home, as in a container; libraries used to print warnings there."""
    home = "/proc/none"  # not even root can create it
    out = tmp_path / "out"
    recording = tmp_path / "INT-01.wav"
    sound = ["-t", "8", "-i", str(ROOT / "demo" / "interview.flac")]
    subprocess.run(["ffmpeg", "-v", "error", *sound, str(recording)], check=True)
    command = [sys.executable, "-c", "from service.commands.main import main; main()", "transcribe"]
    result = subprocess.run(
        [*command, str(recording), "--model", "demo", "--out", str(out)],
        env={"PATH": os.environ["PATH"], "HOME": home, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    loading, started, ended, warning, _, where = result.stderr.splitlines()
    assert loading == "Loading the models."
    assert started.startswith("INT-01: 0:00:08 of audio, about ")
    assert ended.startswith("INT-01: 0:00:08 of audio in ")
    assert warning.startswith("  WARNING: Made with the demo weights")
    assert where.endswith(f": {out}")


def test_no_library_phones_home():
    """pyannote.audio and onnxruntime, which it imports, send telemetry unless told not to."""
    program = (
        "import os; from models.pyannote_guard import import_pyannote_audio;"
        "import_pyannote_audio();"
        "print(os.environ['PYANNOTE_METRICS_ENABLED'], os.environ['HF_HUB_OFFLINE'],"
        " os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert shown.stdout == "0 1 1\n"


def test_a_terminal_shows_progress_and_the_time_left(recording, tmp_path):
    """In a pseudo-terminal: all other tests run without progress bars."""
    program = (
        "from service.commands import transcribe as transcribe_command;"
        "from tests.fakes import FakePipeline;"
        "transcribe_command.Pipeline = lambda *arguments: FakePipeline();"
        "from service.commands.main import main; main()"
    )
    ours, theirs = pty.openpty()
    arguments = ["transcribe", str(recording), "--model", "demo", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the process has closed the terminal
        while block := os.read(ours, 4096):
            shown += block
    os.close(ours)

    assert process.wait() == 0
    assert shown.index(b"starting") < shown.index(b"loading the models")
    assert b"1 of 1 sessions" in shown
    assert b" left" in shown and b"RTFx" in shown
    assert shown.count(b"INT-07: ") == 1
