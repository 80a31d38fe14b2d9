"""The benchmark compares equal work: the same weights, windows and numbers of tokens."""

from multiprocessing import get_context

import pytest

from scripts import bench_whole_path
from scripts.bench_whisper import (
    compute_agreement,
    compute_least_seconds,
    format_table,
    measure,
)
from scripts.reports import read_peak_bytes
from scripts.whisper_contestants import CONTESTANTS, DIMENSIONS, Setup

SETUP = Setup("micro", "cpu", threads=1, batch=2, windows=3, tokens=8)
RATES = {"gemm": {"fp32": 1e9, "bf16": 2e9}, "copy": 1e9}


@pytest.mark.slow
def test_contestants_decode_the_same_tokens_in_the_requested_number():
    lengths = SETUP.lengths("drawn")
    texts = {}
    for name in CONTESTANTS:
        if name == "faster-whisper":
            pytest.importorskip("ctranslate2")
        texts[name] = CONTESTANTS[name](SETUP, "fp32").decode(SETUP.make_mels(), lengths)
    expected = texts["openai-whisper"]

    assert len(set(map(tuple, expected))) == SETUP.windows  # the texts depend on the audio
    assert len(set(lengths)) > 1
    for name, found in texts.items():
        # transformers and CTranslate2 have their own implementations of the timestamp rules.
        least = 0.9 if name in ("transformers", "faster-whisper") else 1
        assert compute_agreement(found, expected) >= least, name
        if name != "faster-whisper":  # it takes one limit per batch
            assert [len(text) for text in found] == lengths, name


@pytest.mark.slow
def test_contestants_take_turns_in_separate_processes():
    report = measure(SETUP, ["openai-whisper", "fieldscribe"], ["fp32"], rounds=1)

    assert [one["name"] for one in report["contestants"]] == ["openai-whisper", "fieldscribe"]
    for one in report["contestants"]:
        assert one["fixed"]["tokens"] == one["fixed"]["tokens_asked_for"] == 24
        assert one["fixed"]["same_as_first_contestant"] == 1
        assert one["peak_rss_bytes"] > 1e8


@pytest.mark.slow
def test_contestants_decode_as_many_tokens_with_their_own_defaults():
    names = ["openai-whisper", "openai-whisper in batches", "transformers", "fieldscribe"]
    report = measure(SETUP, names, ["fp32"], rounds=1, part="defaults")

    found = {one["name"]: one for one in report["contestants"]}
    assert {name: (one["batch"], one["beams"]) for name, one in found.items()} == {
        "openai-whisper": (1, 5),
        "transformers": (1, 1),
        "fieldscribe": (0, 1),
    }
    assert all(one["fixed"]["tokens"] == 24 for one in found.values()), found
    assert "| openai-whisper | fp32 | 1, 5 | " in format_table(report)


def send_peak(pipe):
    pipe.send(read_peak_bytes())


def test_peak_memory_is_that_of_the_contestants_own_process():
    """getrusage reported at least the peak of the parent process."""
    ours = bytearray(400 << 20)
    ours[::4096] = b"x" * len(ours[::4096])
    del ours
    context = get_context("spawn")
    pipe, theirs = context.Pipe()
    child = context.Process(target=send_peak, args=(theirs,))
    child.start()
    found = pipe.recv()
    child.join()

    assert found < read_peak_bytes() - (100 << 20)


def test_a_contestant_that_cannot_run_is_reported_as_such(monkeypatch):
    def refuse(setup, precision):
        raise RuntimeError("no such card")

    sent = []

    class Pipe:
        def send(self, message):
            sent.append(message)

    monkeypatch.setitem(CONTESTANTS, "faster-whisper", refuse)
    from scripts.bench_whisper import run_contestant

    run_contestant(Pipe(), "faster-whisper", "fp32", SETUP)  # type: ignore[arg-type]

    assert sent == [{"error": "RuntimeError: no such card"}]


def test_the_limit_of_large_v3_is_set_by_its_arithmetic_and_memory():
    """2,273 + 315 GFLOP per window and 1.6 GB of weights per step in bf16."""
    n_mels, n_vocab, *_ = DIMENSIONS["large-v3"]
    one = Setup("large-v3", "cuda", threads=1, batch=1, windows=1, tokens=0)
    rates = {"gemm": {"bf16": 1e9}, "copy": 1e9}
    assert (n_mels, n_vocab) == (128, 51866)
    assert compute_least_seconds(one, [0], "bf16", rates) == pytest.approx(2273 + 315, rel=0.01)

    fast = {"gemm": {"bf16": 1e18}, "copy": 1e9}
    assert compute_least_seconds(one, [1], "bf16", fast) == pytest.approx(1.6 + 0.246, rel=0.01)


def test_the_share_of_equal_tokens_stops_at_the_first_difference():
    assert compute_agreement([[1, 2, 3, 4], [5, 6]], [[1, 2, 9, 4], [5, 6]]) == pytest.approx(
        4 / 6, abs=1e-4
    )


@pytest.mark.slow
def test_the_whole_path_turns_files_into_transcripts(tmp_path):
    pipeline = bench_whole_path.build_pipeline("micro", "cpu", "fp32")
    row = bench_whole_path.measure(pipeline, bench_whole_path.make_recordings(0.2, 2, tmp_path), 10)

    assert row["audio_seconds"] == pytest.approx(24.0, abs=0.1)
    assert row["windows"] == 2
    assert all(row["seconds"][stage] > 0 for stage in bench_whole_path.TO_WORDS)
    assert row["rtfx"] < row["rtfx_to_words"]
    assert 0 < row["share_of_engine"] < 1.2
