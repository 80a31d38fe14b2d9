"""Playing and polling in the audit trail: a handful of entries, and nothing is left out."""

from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from service.database.tables import AuditEntry
from service.domain import audit
from service.domain.callers import Caller
from service.domain.readings import LONGEST_STRETCH, WINDOW, Readings
from service.services import Services

STUDY = UUID(int=1)
RATE = 8000  # bytes a second
BLOCK = 256 * 1024


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges of the entries, in order."""
    ranges: list[tuple[int, int]] = []

    def record(*_: object, detail: dict[str, list[list[int]]]) -> None:
        ranges.extend((start, end) for start, end in detail.get("seconds", [[0, 0]]))

    monkeypatch.setattr(audit, "record_now", record)
    return ranges


def listener() -> Caller:
    return Caller(uuid4(), "researcher", True, frozenset(), uuid4())


def play(
    made: Readings, caller: Caller, start: float, end: float, last: float | None = None
) -> None:
    """Send these seconds block by block, as an answer does."""
    seconds = BLOCK / RATE
    while start < end:
        until = min(end, start + seconds)
        made.record_playing(
            caller, "recording.played", STUDY, {"recording": STUDY}, start, until, last or end
        )
        start = until


def test_an_hour_makes_about_ten_entries(services: Services, recorded: list[object]) -> None:
    play(Readings(services), listener(), 0.0, 3600.0)

    assert len(recorded) <= 10
    assert recorded[0] == (0, 60)
    assert recorded[-1] == (3300, 3600)


def test_a_click_on_a_segment_names_a_minute(services: Services, recorded: list[object]) -> None:
    play(Readings(services), listener(), 100.4, 104.0, last=3600.0)

    assert recorded == [(100, 160)]


def test_the_same_minutes_are_recorded_again_after_an_hour(
    services: Services, recorded: list[object]
) -> None:
    clock = Clock()
    made, caller = Readings(services, clock), listener()
    play(made, caller, 0.0, 30.0)
    play(made, caller, 0.0, 30.0)
    assert len(recorded) == 1
    clock.now = WINDOW + 1
    play(made, caller, 0.0, 30.0)
    assert len(recorded) == 2


def test_another_browser_and_a_restarted_service_are_recorded_again(
    services: Services, recorded: list[object]
) -> None:
    made, caller = Readings(services), listener()
    play(made, caller, 0.0, 30.0)
    play(made, listener(), 0.0, 30.0)
    play(Readings(services), caller, 0.0, 30.0)

    assert len(recorded) == 3


@given(
    st.lists(
        st.tuples(st.floats(0, 5000), st.floats(0.1, 900), st.floats(0, 3000)),
        max_size=6,
    )
)
def test_nothing_is_heard_that_no_entry_names(
    requests: list[tuple[float, float, float]],
) -> None:
    """Whatever is asked for in whatever order, and wherever the listener stops."""
    ranges: list[tuple[int, int]] = []

    def record(*_: object, detail: dict[str, list[list[int]]]) -> None:
        ranges.extend((start, end) for start, end in detail["seconds"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "record_now", record)
        made, caller = Readings(services=None), listener()  # type: ignore[arg-type]
        for start, heard, more in requests:
            play(made, caller, start, start + heard, last=start + heard + more)
            second = start
            while second < start + heard:
                assert any(a <= second < b for a, b in ranges)
                second += 0.5
    assert all(end - start <= LONGEST_STRETCH for start, end in ranges)


def test_sound_that_cannot_be_recorded_is_not_remembered(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, caller = Readings(services), listener()

    def fail(*_: object, **__: object) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(audit, "record_now", fail)
        with pytest.raises(OSError):
            play(made, caller, 0.0, 30.0)
    play(made, caller, 0.0, 30.0)
    with services.sessionmaker() as session:
        query = sa.select(AuditEntry).where(AuditEntry.token_id == caller.token_id)
        (entry,) = session.scalars(query)
    assert entry.detail == {"seconds": [[0, 30]]}
    assert entry.objects["browser"] == str(caller.device_id)


def test_polling_leaves_one_entry_until_something_changes(
    services: Services, recorded: list[object]
) -> None:
    made, caller = Readings(services), listener()
    for version in (1, 1, 1, 2, 2):
        made.record_once(caller, "transcript.read", STUDY, {}, {"version": version})

    assert len(recorded) == 2
