"""The order in which finished uploads are checked."""

import asyncio
import threading
from collections import Counter
from contextlib import suppress
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from service.domain import checking
from service.domain.checking import Checker, Unchecked, choose_next

A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)


def simulate(waiting, *, slots, memory=10**6):
    """All recordings in the order their checks begin; the oldest check ends first."""
    running: list[Unchecked] = []
    served_at: dict[UUID, int] = {}
    order: list[Unchecked] = []
    while waiting or running:
        chosen = choose_next(waiting, running, served_at, slots=slots, memory=memory)
        if chosen is None:
            running.pop(0)
            continue
        waiting.remove(chosen)
        running.append(chosen)
        assert len(running) <= slots
        assert len(running) == 1 or sum(each.n_bytes for each in running) <= memory
        served_at[chosen.study_id] = len(order)
        order.append(chosen)
    return order


def unchecked(study, n_bytes=1):
    return Unchecked(uuid4(), study, n_bytes)


def test_a_study_with_few_uploads_does_not_wait_for_one_with_many():
    """Checks once ran in order of arrival: a batch of a hundred held up everybody else."""
    waiting = [unchecked(A) for _ in range(100)] + [unchecked(B), unchecked(C)]

    order = [each.study_id for each in simulate(waiting, slots=1)]

    assert set(order[:3]) == {A, B, C}


@given(st.lists(st.sampled_from([A, B, C]), max_size=40), st.integers(1, 5))
def test_studies_take_turns_and_each_keeps_its_order(studies, slots):
    waiting = [unchecked(study) for study in studies]

    order = simulate(list(waiting), slots=slots)

    for study in (A, B, C):
        own = [each for each in order if each.study_id == study]
        assert own == [each for each in waiting if each.study_id == study]
    left = Counter(studies)
    done: Counter[UUID] = Counter()
    for each in order:  # no study with work left falls behind another by more than a round
        done[each.study_id] += 1
        behind = [study for study in left if done[study] < left[study]]
        assert all(done[each.study_id] - done[study] <= slots + 1 for study in behind)


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(1, 15)), max_size=30))
def test_checks_share_the_memory_and_a_large_one_is_not_starved(wanted):
    waiting = [unchecked(study, n_bytes) for study, n_bytes in wanted]

    assert len(simulate(waiting, slots=4, memory=10)) == len(wanted)


def test_as_many_checks_run_at_once_as_there_are_slots(services, monkeypatch):
    together = threading.Barrier(3)
    monkeypatch.setattr(
        Checker, "_find_waiting", lambda self: [unchecked(A), unchecked(A), unchecked(B)]
    )
    monkeypatch.setattr(checking, "tidy_uploads", lambda services: None)
    passed = []

    def check(self, recording_id):
        if not self._stop.is_set():
            with suppress(threading.BrokenBarrierError):
                together.wait(10)
                passed.append(recording_id)
            self._stop.wait(10)

    monkeypatch.setattr(Checker, "_check", check)

    async def run():
        checker = Checker(services, slots=3)
        task = asyncio.create_task(checker.run())
        while len(passed) < 3:
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(checker.close)

    asyncio.run(asyncio.wait_for(run(), 20))

    assert len(passed) == 3


def test_two_processors_are_left_for_everything_else(monkeypatch):
    for n_processors, slots in ((1, 1), (2, 1), (4, 1), (8, 3), (64, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, n=n_processors: set(range(n)))
        assert checking.count_slots() == slots
