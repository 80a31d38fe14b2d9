"""Batch mode with fake models: results, skipping, failures, and groups of sessions."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
import wave
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from models.audio.decode import decode
from models.audio.errors import NoSpeech
from models.errors import OutOfMemory, UnknownLanguage
from models.options import JobOptions
from models.pipeline import StageProgress
from models.transcript_json import from_json
from models.weights.catalogue import PipelineWeights, WhisperWeights
from service.batch.batch import Batch, SessionFiles, group_into_sessions, prepare_output, run
from service.batch.identity import KEY_FILE, FolderKeyMissing, ensure_key
from service.errors import OutputNotWritable, SameName
from service.exports import Format
from service.exports.files import _write_partial, remove_abandoned
from tests.audio_files import read_once
from tests.fakes import FakePipeline

NOTICE = ".fieldscribe-identified"

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def known_readings():
    """The recordings of these tests are much alike."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        read_once(monkeypatch, "service.batch.reading.probe", "service.batch.reading.decode")
        yield


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "recorder"
    folder.mkdir()
    paths = [folder / f"INT-0{i}.wav" for i in (1, 2, 3)]
    for i, path in enumerate(paths):
        write_tone(path, 1.0 + i)
    return paths


def write_tone(path: Path, seconds: float, level: float = 8000) -> None:
    samples = level * np.sin(np.arange(int(16_000 * seconds)) * 0.2)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.astype("<i2").tobytes())


def batch(recordings, out, **changes):
    prepare_output(out)
    values = {
        "sessions": group_into_sessions(recordings, join=False),
        "out": out,
        "formats": (Format.JSON, Format.TXT),
        "options": JobOptions(),
        "whisper": WhisperWeights("fake", Path("fake.pt"), "a" * 64, False),
        "diarisation": PipelineWeights("fake", Path("fake"), "b" * 64, False),
    }
    return Batch(**{**values, **changes})


def results_of(work, pipeline=None, on_start=lambda group: None, on_progress=lambda progress: None):
    pipeline = pipeline or FakePipeline()
    return list(run(work, lambda: pipeline, on_start, on_progress))


def test_every_recording_gets_a_transcript_in_each_format(recordings, tmp_path):
    out = tmp_path / "out"
    results = results_of(batch(recordings, out))

    assert [result.status for result in results] == ["done"] * 3
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        f"INT-0{i}.identified.{ending}" for i in (1, 2, 3) for ending in ("json", "txt")
    ]
    assert "Eva Muster" in (out / "INT-01.identified.txt").read_text()


def test_results_are_readable_only_by_their_owner(recordings, tmp_path):
    out = tmp_path / "out"
    results_of(batch(recordings, out))

    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}


def test_finished_sessions_are_skipped_without_loading_the_models(recordings, tmp_path):
    work = batch(recordings, tmp_path / "out")
    results_of(work)

    def load():
        raise AssertionError("the models were loaded")

    again = list(run(work, load, lambda group: None, lambda progress: None))

    assert [result.status for result in again] == ["skipped"] * 3


def test_a_missing_format_is_written_from_the_finished_transcript(recordings, tmp_path):
    results_of(batch(recordings, tmp_path / "out"))
    pipeline = FakePipeline()
    again = results_of(batch(recordings, tmp_path / "out", formats=(Format.SRT,)), pipeline)

    assert [result.status for result in again] == ["skipped"] * 3
    assert not pipeline.transcribed
    assert (tmp_path / "out" / "INT-02.identified.srt").read_text().startswith("1\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"options": JobOptions(language="en")},
        {"options": JobOptions(vocabulary=("Eva",))},
        {"whisper": WhisperWeights("other", Path("other.pt"), "c" * 64, False)},
    ],
)
def test_changed_options_or_weights_cause_another_transcription(recordings, tmp_path, changes):
    work = batch(recordings[:1], tmp_path / "out")
    results_of(work)

    assert [result.status for result in results_of(replace(work, **changes))] == ["done"]


def test_a_text_that_a_person_corrected_is_kept(recordings, tmp_path):
    """Running the command again with another option used to overwrite it."""
    work = batch(recordings[:1], tmp_path / "out")
    results_of(work)
    text = tmp_path / "out" / "INT-01.identified.txt"
    text.write_text("corrected")
    (result,) = results_of(replace(work, options=JobOptions(language="en")))

    assert text.read_text() == "corrected"
    assert [each.written.name for each in result.kept] == ["INT-01.identified-2.txt"]


def test_a_transcript_that_a_person_edited_is_kept(recordings, tmp_path):
    work = batch(recordings[:1], tmp_path / "out")
    results_of(work)
    path = tmp_path / "out" / "INT-01.identified.json"
    edited = path.read_text().replace("Eva", "Ida")
    path.write_text(edited)
    (result,) = results_of(replace(work, options=JobOptions(language="en")))

    assert path.read_text() == edited
    assert (result.written_as, result.edited) == ("INT-01-2", True)
    assert [one.status for one in results_of(work)] == ["skipped"]


def test_a_changed_recording_is_transcribed_again(recordings, tmp_path):
    work = batch(recordings[:1], tmp_path / "out")
    results_of(work)
    write_tone(recordings[0], 4.0)
    os.utime(recordings[0], (1, 1))  # a copy may keep an old time, but its size differs

    assert [result.status for result in results_of(work)] == ["done"]


def two_days(tmp_path, seconds=(2.0, 2.0)):
    """Recordings that a recorder gave the same name, with other content and an old date."""
    days = [tmp_path / f"day{i}" / "ZOOM0001.WAV" for i in (1, 2)]
    for path, length, level in zip(days, seconds, (8000, 4000), strict=True):
        path.parent.mkdir()
        write_tone(path, length, level)
        os.utime(path, (1, 1))
    return days


@pytest.mark.parametrize("seconds", [(2.0, 2.0), (2.0, 3.0)])
def test_a_recording_of_another_folder_with_the_same_name_gets_its_own_transcript(
    tmp_path, seconds
):
    """It was "already finished", with the text of the first; or replaced that."""
    out = tmp_path / "out"
    days = two_days(tmp_path, seconds)
    results = [results_of(batch([day], out), FakePipeline(day.parent.name)) for day in days]

    assert [result.status for (result,) in results] == ["done", "done"]
    assert [result.written_as for (result,) in results] == [None, "ZOOM0001-2"]
    assert "day1" in (out / "ZOOM0001.identified.txt").read_text()
    assert "day2" in (out / "ZOOM0001-2.identified.txt").read_text()
    again = [results_of(batch([day], out))[0] for day in reversed(days)]
    assert [result.status for result in again] == ["skipped", "skipped"]
    assert "ZOOM0001-2" in str(again[0].outputs[0])


def test_a_copied_or_touched_recording_is_not_transcribed_again(recordings, tmp_path):
    results_of(batch(recordings[:1], tmp_path / "out"))
    copy = tmp_path / "copy" / recordings[0].name
    copy.parent.mkdir()
    copy.write_bytes(recordings[0].read_bytes())

    assert [r.status for r in results_of(batch([copy], tmp_path / "out"))] == ["skipped"]


def test_the_checksum_in_a_transcript_is_keyed_with_the_folders_key(recordings, tmp_path):
    """A plain one would tell whoever has the recording that the transcript is of it."""
    sources = []
    for out in (tmp_path / "one", tmp_path / "other"):
        (result,) = results_of(batch(recordings[:1], out))
        sources += json.loads(result.outputs[-1].read_text())["sources"]
        assert stat.S_IMODE((out / KEY_FILE).stat().st_mode) == 0o600

    plain = hashlib.sha256(recordings[0].read_bytes()).hexdigest()
    assert len({plain, *(source["identity"] for source in sources)}) == 3
    assert [source["sha256"] for source in sources] == [None, None]


def test_a_folder_without_its_key_is_refused_before_anything_is_transcribed_again(
    recordings, tmp_path
):
    out = tmp_path / "out"
    results_of(batch(recordings[:1], out))
    key = (out / KEY_FILE).read_text()
    (out / KEY_FILE).unlink()

    with pytest.raises(FolderKeyMissing, match="Restore it"):
        prepare_output(out)
    (out / KEY_FILE).write_text(key[:10])
    with pytest.raises(FolderKeyMissing, match="cannot be read"):
        prepare_output(out)
    (out / KEY_FILE).write_text(key)
    assert [r.status for r in results_of(batch(recordings[:1], out))] == ["skipped"]


def test_a_transcript_with_a_plain_checksum_is_recognised(recordings, tmp_path):
    """Earlier versions wrote one."""
    out = tmp_path / "out"
    (result,) = results_of(batch(recordings[:1], out))
    path = result.outputs[-1]
    document = json.loads(path.read_text())
    plain = hashlib.sha256(recordings[0].read_bytes()).hexdigest()
    document["sources"][0] |= {"sha256": plain, "identity": None}
    path.write_text(json.dumps(document))
    (out / KEY_FILE).unlink()

    assert [r.status for r in results_of(batch(recordings[:1], out))] == ["skipped"]


def test_two_runs_that_begin_together_share_one_key(tmp_path):
    with ThreadPoolExecutor() as pool:
        keys = set(pool.map(lambda _: ensure_key(tmp_path, lambda: False), range(16)))

    assert len(keys) == 1 and [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_a_transcript_without_checksums_is_kept_and_passes_for_no_recording(tmp_path):
    """One was recognised by size and time, so a recording of another day could pass for it."""
    out = tmp_path / "out"
    days = two_days(tmp_path)
    (result,) = results_of(batch(days[:1], out))
    path = result.outputs[-1]
    transcript = json.loads(path.read_text())
    for source in transcript["sources"]:
        del source["identity"]
    path.write_text(before := json.dumps(transcript))

    for day, name in ((days[1], "ZOOM0001-2"), (days[0], "ZOOM0001-3")):
        assert [(r.status, r.written_as) for r in results_of(batch([day], out))] == [("done", name)]
    assert path.read_text() == before


def test_a_name_that_another_run_takes_meanwhile_is_left_to_it(tmp_path):
    out = tmp_path / "out"
    days = two_days(tmp_path)

    class Slow(FakePipeline):
        def finish(self, session, on_progress):
            results_of(batch(days[1:], out), FakePipeline("day2"))
            return super().finish(session, on_progress)

    (result,) = results_of(batch(days[:1], out), Slow("day1"))

    assert result.written_as == "ZOOM0001-2"
    assert "day2" in (out / "ZOOM0001.identified.txt").read_text()


def test_a_joined_session_does_not_replace_the_transcript_of_its_first_recording(
    recordings, tmp_path
):
    out = tmp_path / "out"
    results_of(batch(recordings[:1], out))
    joined = batch(recordings, out, sessions=group_into_sessions(recordings, join=True))

    assert [result.written_as for result in results_of(joined)] == ["INT-01-2"]


@pytest.mark.parametrize("content", ['{"schema": "fieldscribe', "[]", "[" * 100_000, "\0"])
def test_a_damaged_result_is_replaced(recordings, tmp_path, content):
    work = batch(recordings[:1], tmp_path / "out")
    results_of(work)
    (tmp_path / "out" / "INT-01.identified.json").write_text(content)

    assert [result.status for result in results_of(work)] == ["done"]


def test_an_unreadable_file_does_not_stop_the_others(recordings, tmp_path):
    recordings[1].write_text("this is not a recording")
    results = results_of(batch(recordings, tmp_path / "out"))

    assert [result.status for result in results] == ["done", "failed", "done"]
    assert results[1].code == "unreadable_audio"
    assert not list((tmp_path / "out").glob("INT-02*"))


def test_a_missing_recording_fails_only_its_own_session(recordings, tmp_path):
    recordings[0].unlink()
    results = results_of(batch(recordings, tmp_path / "out"))

    assert (results[0].status, results[0].code) == ("failed", "recording_not_found")
    assert "INT-01" not in results[0].message


def test_an_interrupt_loses_no_finished_session(recordings, tmp_path):
    work = batch(recordings, tmp_path / "out")

    class Interrupted(FakePipeline):
        def transcribe(self, *arguments, **options):
            if len(self.transcribed) == 1:
                raise KeyboardInterrupt
            return super().transcribe(*arguments, **options)

    with pytest.raises(KeyboardInterrupt):
        results_of(work, Interrupted())

    assert [r.status for r in results_of(work)] == ["skipped", "done", "done"]


def test_joined_recordings_become_one_transcript(recordings, tmp_path):
    pipeline = FakePipeline()
    work = batch(recordings, tmp_path / "out", sessions=group_into_sessions(recordings, join=True))
    (result,) = results_of(work, pipeline)

    assert [round(r.duration, 1) for r in pipeline.transcribed[0]] == [1.0, 2.0, 3.0]
    assert result.outputs[-1].name == "INT-01.identified.json"


def test_an_unreadable_joined_recording_is_named_by_its_number(recordings, tmp_path):
    recordings[1].write_bytes(b"")
    work = batch(recordings, tmp_path / "out", sessions=group_into_sessions(recordings, join=True))
    (result,) = results_of(work)

    assert result.code == "empty_file"
    assert result.message.startswith("Recording 2 of 3: The file has 0 bytes")


def test_recordings_that_differ_only_in_their_suffix_keep_it():
    sessions = group_into_sessions([Path("a/INT-01.wav"), Path("a/INT-01.m4a")], join=False)

    assert [session.name for session in sessions] == ["INT-01.wav", "INT-01.m4a"]


def test_the_same_file_twice_is_one_session():
    assert len(group_into_sessions([Path("INT-01.wav"), Path("INT-01.wav")], join=False)) == 1


def test_two_recordings_of_the_same_name_are_refused():
    with pytest.raises(SameName):
        group_into_sessions([Path("a/INT-01.wav"), Path("b/INT-01.wav")], join=False)


def test_an_output_folder_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(OutputNotWritable, match="--out"):
        prepare_output(tmp_path / "file" / "out")


def test_a_full_disk_fails_the_session_and_leaves_no_partial_result(
    recordings, tmp_path, monkeypatch
):
    work = batch(recordings[:1], tmp_path / "out")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    (result,) = results_of(work)

    assert (result.status, result.code) == ("failed", "output_not_writable")
    assert names_in(tmp_path / "out") == []


def test_a_disk_that_fills_up_between_two_formats_leaves_neither(recordings, tmp_path, monkeypatch):
    work = batch(recordings[:1], tmp_path / "out")
    fsync, n_calls = os.fsync, iter(range(100))

    def full_at_the_end(descriptor):
        if next(n_calls) > 1:  # 0 is the notice in the folder, 1 the text, 2 the JSON
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", full_at_the_end)
    pipeline = FakePipeline()
    (result,) = results_of(work, pipeline)

    assert len(pipeline.transcribed) == 1
    assert result.code == "output_not_writable"
    assert names_in(tmp_path / "out") == []


def test_a_full_disk_is_noticed_before_transcribing(recordings, tmp_path, monkeypatch):
    work = batch(recordings, tmp_path / "out")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    pipeline = FakePipeline()

    assert [r.code for r in results_of(work, pipeline)] == ["output_not_writable"] * 3
    assert not pipeline.transcribed


def test_an_output_that_cannot_be_written_is_noticed_before_transcribing(recordings, tmp_path):
    """A name that is too long only with its suffix; a folder that has the name of the result."""
    long = recordings[0].rename(recordings[0].with_name("a" * 245 + ".wav"))
    work = batch([long, *recordings[1:]], tmp_path / "out")
    (tmp_path / "out" / "INT-02.identified.txt").mkdir()
    pipeline = FakePipeline()

    assert [r.code for r in results_of(work, pipeline)] == [
        "output_not_writable",
        "output_not_writable",
        None,
    ]
    assert len(pipeline.transcribed) == 1


def test_an_option_that_the_model_refuses_ends_the_batch(recordings, tmp_path):
    """It used to be listed as a failure of each recording, with exit code 1."""

    class EnglishOnly(FakePipeline):
        def transcribe(self, *arguments, **options):
            raise UnknownLanguage("This model knows English only.")

    with pytest.raises(UnknownLanguage):
        results_of(batch(recordings, tmp_path / "out"), EnglishOnly())


def test_unreadable_recordings_alone_do_not_load_the_models(recordings, tmp_path):
    for path in recordings:
        path.write_text("this is not a recording")

    def load():
        raise AssertionError("the models were loaded")

    work = batch(recordings, tmp_path / "out")
    failed = list(run(work, load, lambda group: None, lambda progress: None))

    assert [result.status for result in failed] == ["failed"] * 3


def test_the_duration_is_measured_and_not_read_from_a_header(recordings, tmp_path):
    """Ogg, AMR and many MP3 files declare none, and their estimate was zero."""
    seen = []
    work = batch(recordings, tmp_path / "out")
    results_of(work, on_start=lambda group: seen.extend(group.values()))

    assert seen == [1.0, 2.0, 3.0]


def test_the_audio_of_one_group_is_freed_before_the_next_begins(recordings, tmp_path, monkeypatch):
    """Four hours of audio take a gigabyte; two sessions in a row used to take two."""
    audio = []

    class WeakPipeline(FakePipeline):
        seconds_at_once = 0.5

        def segment(self, recordings, *arguments):
            audio.append(weakref.ref(recordings[0]))
            return super().segment(recordings, *arguments)

        def transcribe(self, *arguments, **options):
            made = super().transcribe(*arguments, **options)
            self.transcribed.clear()
            return made

    audio_at_each_read = []

    def note(progress):
        if progress == StageProgress("ingest", 1.0):
            audio_at_each_read.append([recording() for recording in audio])

    monkeypatch.setattr("service.batch.reading.MAX_HELD_SECONDS", 0.5)  # nothing is read ahead
    results_of(batch(recordings, tmp_path / "out"), WeakPipeline(), on_progress=note)

    assert [list(state) for state in dict.fromkeys(map(tuple, audio_at_each_read))] == [
        [],
        [None],
        [None, None],
    ]


def test_the_next_recording_is_read_while_one_is_transcribed(recordings, tmp_path, monkeypatch):
    n_read = threading.Semaphore(0)

    def note(*arguments, **options):
        recording = decode(*arguments, **options)
        n_read.release()
        return recording

    monkeypatch.setattr("service.batch.reading.decode", note)

    class Waiting(FakePipeline):
        seconds_at_once = 0.5  # each session is a group

        def transcribe(self, *arguments):
            if not self.transcribed:
                for _ in range(3):
                    assert n_read.acquire(timeout=60)
            return super().transcribe(*arguments)

    results = results_of(batch(recordings, tmp_path / "out"), Waiting())

    assert [result.status for result in results] == ["done"] * 3


# --- groups ---


def test_short_sessions_are_transcribed_together_and_a_long_one_alone(tmp_path):
    recordings = [tmp_path / f"INT-0{i}.wav" for i in range(1, 7)]
    for path, seconds in zip(recordings, (1.0, 2.0, 4.0, 0.5, 0.5, 2.5), strict=True):
        write_tone(path, seconds)
    pipeline = FakePipeline()
    pipeline.seconds_at_once = 3.0
    results = results_of(batch(recordings, tmp_path / "out"), pipeline)

    assert pipeline.transcribed_together == [2, 1, 2, 1]
    assert [result.session.name for result in results] == [path.stem for path in recordings]


def test_failed_and_finished_sessions_in_a_group_keep_their_order(recordings, tmp_path):
    more = [recordings[0].with_name(f"INT-0{i}.wav") for i in (4, 5)]
    write_tone(more[0], 1.0)
    more[1].write_text("this is not a recording")
    results_of(batch(recordings[1:2], tmp_path / "out"))
    pipeline = FakePipeline()
    results = results_of(batch([*recordings, *more], tmp_path / "out"), pipeline)

    assert [result.status for result in results] == ["done", "skipped", "done", "done", "failed"]
    assert pipeline.transcribed_together == [3]


def test_a_session_without_speech_fails_alone(recordings, tmp_path):
    class NoSpeechPipeline(FakePipeline):
        def segment(self, recordings, *arguments):
            if recordings[0].duration == 2.0:
                raise NoSpeech("In 2 s of sound no speech was found.")
            return super().segment(recordings, *arguments)

        def diarise(self, session, on_progress):
            if session[0][0].duration == 3.0:
                raise NoSpeech("In 3 s of sound no words were found.")
            return session

    results = results_of(batch(recordings, tmp_path / "out"), NoSpeechPipeline())

    assert [result.code for result in results] == [None, "no_speech", "no_speech"]
    assert names_in(tmp_path / "out") != []


def test_a_group_that_exceeds_memory_fails_and_the_next_one_is_tried(recordings, tmp_path):
    class SmallMemory(FakePipeline):
        seconds_at_once = 3.0

        def find_words(self, sessions, on_progress):
            if len(sessions) > 1:
                raise OutOfMemory("One window does not fit into the memory of cuda.")
            return sessions

    results = results_of(batch(recordings, tmp_path / "out"), SmallMemory())

    assert [result.code for result in results] == ["out_of_memory", "out_of_memory", None]


def test_a_session_is_finished_after_the_next_one_is_embedded(recordings, tmp_path):
    steps = []

    class RecordingPipeline(FakePipeline):
        def diarise(self, session, on_progress):
            steps.append(("diarise", session[0][0].duration))
            return session

        def finish(self, session, on_progress):
            steps.append(("finish", session[0][0].duration))
            return super().finish(session, on_progress)

    results_of(batch(recordings, tmp_path / "out"), RecordingPipeline())

    assert steps == [
        ("diarise", 1.0),
        ("diarise", 2.0),
        ("finish", 1.0),
        ("diarise", 3.0),
        ("finish", 2.0),
        ("finish", 3.0),
    ]


def test_progress_covers_the_group_and_never_goes_back(recordings, tmp_path):
    class ReportingPipeline(FakePipeline):
        def segment(self, recordings, options, on_progress):
            on_progress(StageProgress("segment", 0.5))
            return recordings, options

        def diarise(self, session, on_progress):
            on_progress(StageProgress("diarise", 0.9))
            return session

        def transcribe(self, recordings, options, on_progress=lambda progress: None):
            for stage, fraction in (("diarise", 0.9), ("diarise", 1.0), ("check", 1.0)):
                on_progress(StageProgress(stage, fraction))
            return super().transcribe(recordings, options)

    seen: list[StageProgress] = []
    results_of(batch(recordings, tmp_path / "out"), ReportingPipeline(), on_progress=seen.append)
    stages = list(dict.fromkeys(progress.stage for progress in seen))

    assert stages == ["ingest", "segment", "diarise", "check"]
    segmenting = [progress.fraction for progress in seen if progress.stage == "segment"]
    assert segmenting == pytest.approx([0.5 / 6, 2 / 6, 4.5 / 6])
    diarising = [progress.fraction for progress in seen if progress.stage == "diarise"]
    assert diarising == sorted(diarising)
    assert diarising[-1] == pytest.approx(1.0)
    assert seen[-1] == StageProgress("check", 1.0)


def test_the_reported_time_excludes_loading_the_models(recordings, tmp_path):
    pipeline = FakePipeline()

    def load():
        time.sleep(2)
        return pipeline

    work = batch(recordings[:1], tmp_path / "out")
    (result,) = run(work, load, lambda group: None, lambda progress: None)

    assert result.seconds < 2


def test_unfinished_files_of_a_killed_run_are_removed(recordings, tmp_path):
    """They hold what people said, under hidden names that nobody would look for."""
    out = tmp_path / "out"
    program = (
        "import os; from pathlib import Path; from service.exports.files import write_whole\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\n"
        f"write_whole(Path({str(out)!r}) / 'INT-01.identified.txt', 'my name is Eva Muster')"
    )
    prepare_output(out)
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert killed.returncode == -9
    assert len(names_in(out)) == 1

    prepare_output(out)

    assert names_in(out) == []


def test_files_that_another_run_is_writing_are_kept(tmp_path):
    out = tmp_path / "out"
    prepare_output(out)
    with ExitStack() as stack:
        partial = _write_partial(out / "INT-01.identified.txt", "text", stack)
        remove_abandoned(out)
        assert Path(partial).exists()


def names_in(folder: Path) -> list[str]:
    """Without the notice and the key, which every output folder has."""
    return [path.name for path in folder.iterdir() if path.name not in (NOTICE, KEY_FILE)]


def test_the_json_holds_the_whole_transcript(recordings, tmp_path):
    (result,) = results_of(batch(recordings[:1], tmp_path / "out", formats=(Format.TXT,)))
    path = SessionFiles("INT-01", ()).output(tmp_path / "out", Format.JSON)

    assert from_json(path.read_text()).words == result.transcript.words
    assert json.loads(path.read_text())["sources"][0]["n_bytes"] == os.path.getsize(recordings[0])
