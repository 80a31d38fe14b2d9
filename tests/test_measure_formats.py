"""The table of times, lengths and loudness in docs/reference/formats.md holds."""

import re
from pathlib import Path

import pytest

from scripts.measure_formats import CASES, LATE, START, Case, measure, rows, write
from tests.audio_files import slow

TABLE = (Path(__file__).parent.parent / "docs/reference/formats.md").read_text().splitlines()
QUICK = ("m4a", "opus", "mts")


def test_the_table_lists_every_measured_format() -> None:
    listed = [line for line in TABLE if re.match(r"\| `\.\w+` \| [\w ()]+, [\d.]+ kHz \|", line)]
    assert len(listed) == len(CASES)
    assert [re.findall(r"`\.(\w+)`", line)[0] for line in listed] == [c.ending for c in CASES]


@pytest.mark.parametrize("case", [c if c.ending in QUICK else slow(c) for c in CASES], ids=str)
def test_a_known_sound_comes_out_at_its_time(case: Case, tmp_path: Path) -> None:
    (row,) = rows([case], tmp_path)
    (listed,) = [line for line in TABLE if line.startswith(row[: row.index("kHz")])]

    numbers, expected = (re.findall(r"[+-]?\d+\.\d+(?= \|)", line) for line in (row, listed))
    assert [float(n) for n in numbers] == pytest.approx([float(n) for n in expected], abs=0.15)
    assert abs(float(numbers[0]) - START) < 0.08


@pytest.mark.parametrize(
    "case", [c if c.ending in ("mts", "mp4") else slow(c) for c in CASES if c.picture], ids=str
)
def test_sound_that_starts_late_comes_out_late(case: Case, tmp_path: Path) -> None:
    if case.ending == "avi":
        pytest.skip("an AVI cannot say so")
    path = tmp_path / f"x.{case.ending}"
    write(case, path, late=LATE)
    assert measure(path).start == pytest.approx(START + LATE, abs=0.03)
