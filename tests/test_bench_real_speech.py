"""The summary of real recordings beside other programs."""

from models.metrics import WordCounts
from scripts.bench_real_speech import Run, format_table, summarise


def test_times_are_added_over_all_rounds_and_errors_are_those_of_one():
    counts = WordCounts(substitutions=1, deletions=1, insertions=0, total=20)
    runs = [Run("ours", name, 30.0, 10.0, 5.0, counts) for name in ("a", "b") for _ in range(3)]
    (row,) = summarise(runs)

    assert (row["rtfx"], row["audio_per_processor_second"]) == (3.0, 6.0)
    assert (row["errors"], row["words"]) == (4.0, 40)
    assert "| ours | 3.0 | 6.0 | 4 in 40 |" in format_table([row])
