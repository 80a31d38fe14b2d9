"""The order of the queue: studies take turns, and a study's own jobs stay in order."""

import random
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from scripts.stand_in.jobs import STAND_IN_MODELS, make_study, make_token
from service.database.queries import lock_job
from service.database.tables import Job
from service.domain.job_details import queue_position
from service.domain.queue import QUEUE, defer_job, request_cancel, sweep
from service.domain.turns import CLOSE_GAPS, TASK, close_gaps


class Line:
    """The queue in a transaction that is rolled back, with nothing else in it."""

    def __init__(self, services, session, n_studies):
        self.session = session
        self.studies = [make_study(services) for _ in range(n_studies)]
        self._token = make_token(services)
        session.execute(text("DELETE FROM procrastinate_jobs"))
        self._worker = session.scalar(
            text("SELECT worker_id FROM procrastinate_register_worker_v1()")
        )
        self.running: list[int] = []

    def submit(self, study: UUID) -> UUID:
        job = Job(id=uuid4(), study_id=study, token_id=self._token, **STAND_IN_MODELS)
        self.session.add(job)
        defer_job(self.session, job.id, study)
        return job.id

    def start(self) -> UUID | None:
        """What a worker does that has time for a job."""
        query = text("SELECT id, args FROM procrastinate_fetch_job_v2(ARRAY[:queue], :worker)")
        row = self.session.execute(query, {"queue": QUEUE, "worker": self._worker}).one()
        if row.id is None:
            return None
        self.running.append(row.id)
        job_id = UUID(row.args["job_id"])
        self.session.execute(
            text("UPDATE job SET status = 'running', started_at = now() WHERE id = :id"),
            {"id": job_id},
        )
        return job_id

    def finish(self) -> None:
        id = self.running.pop(0)
        query = text("SELECT procrastinate_finish_job_v1(:id, 'succeeded', false)")
        self.session.execute(query, {"id": id})
        ended = text("UPDATE job SET status = 'succeeded' WHERE queue_job_id = :id")
        self.session.execute(ended, {"id": id})

    def cancel(self, job_id: UUID) -> None:
        job = lock_job(self.session, job_id)
        assert job is not None
        request_cancel(self.session, job)
        self.session.execute(CLOSE_GAPS, {"task": TASK})

    def position(self, job_id: UUID) -> int | None:
        return queue_position(self.session, self.session.get_one(Job, job_id))


@pytest.fixture
def line(services, request):
    with services.sessionmaker() as session:
        yield Line(services, session, getattr(request, "param", 2))
        session.rollback()


def test_a_study_that_keeps_eight_jobs_in_line_does_not_hold_up_another(line):
    """It used to: a job's priority was the number of its study's jobs when it was submitted."""
    busy, patient = line.studies
    for _ in range(8):
        line.submit(busy)
    waiting = [line.submit(patient) for _ in range(20)]
    started = []
    for _ in range(40):
        started.append(line.start())
        line.finish()
        line.submit(busy)

    ours = [job for job in started if job in waiting]
    assert ours == waiting[: len(ours)]
    assert 19 <= len(ours) <= 20


def test_jobs_of_one_study_run_in_the_order_in_which_they_were_submitted(line):
    study = line.studies[0]
    first, second = line.submit(study), line.submit(study)
    assert line.start() == first
    line.finish()
    third = line.submit(study)

    assert [line.position(id) for id in (second, third)] == [0, 1]
    assert [line.start(), line.start()] == [second, third]


def test_a_study_that_was_idle_has_saved_up_no_turns(line):
    busy, idle = line.studies
    for _ in range(10):
        line.submit(busy)
        line.start()
        line.finish()
    held = [line.submit(busy) for _ in range(3)]
    late = [line.submit(idle) for _ in range(3)]

    assert [line.start() for _ in range(6)] == [
        late[0],
        *(id for pair in zip(held, late[1:], strict=False) for id in pair),
        held[2],
    ]


def test_jobs_move_up_when_earlier_ones_of_their_study_are_cancelled(line):
    many, other = line.studies
    wave = [line.submit(many) for _ in range(20)]
    others = [line.submit(other) for _ in range(3)]
    for id in wave[:-1]:
        line.cancel(id)

    assert line.position(wave[-1]) == 0
    assert [line.start() for _ in range(2)] == [wave[-1], others[0]]
    line.cancel(others[1])
    assert line.start() == others[2]


def test_a_cancelled_batch_does_not_count_against_its_study(line):
    many, other = line.studies
    for id in [line.submit(many) for _ in range(20)]:
        line.cancel(id)
    line.submit(other)
    later = line.submit(other)
    ours = line.submit(many)

    assert line.position(ours) == 1
    assert line.position(later) == 2


def test_a_job_that_the_queue_lost_keeps_its_turn(services):
    with services.sessionmaker.begin() as session:
        session.execute(text("DELETE FROM procrastinate_jobs"))
        session.execute(text("UPDATE job SET status = 'cancelled'"))
    study, token = make_study(services), make_token(services)
    ids = [uuid4() for _ in range(3)]
    with services.sessionmaker.begin() as session:
        for id in ids:
            session.add(Job(id=id, study_id=study, token_id=token, **STAND_IN_MODELS))
            defer_job(session, id, study)
        session.execute(
            text("UPDATE procrastinate_jobs SET status = 'succeeded' WHERE args->>'job_id' = :id"),
            {"id": str(ids[0])},
        )

    assert sweep(services.sessionmaker) == 1
    close_gaps(services.sessionmaker)

    with services.sessionmaker() as session:
        assert [queue_position(session, session.get_one(Job, id)) for id in ids] == [0, 1, 2]


@pytest.mark.parametrize("line", [2, 5, 9], indirect=True)
@pytest.mark.parametrize("n_events", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_arrivals_are_served_in_turn(line, n_events):
    """Thousands of jobs arrive, start, end and are cancelled, at random and in bursts.

    A study's jobs start in order. While a job waits for n of its own study, no other study starts
    more than n + 2: nothing waits for ever, whatever the others submit. `position` is the number
    of jobs that start before it, if no more arrive.
    """
    chance = random.Random(len(line.studies) * n_events)
    waiting: dict[UUID, list[UUID]] = {study: [] for study in line.studies}
    served_before: dict[UUID, dict[UUID, int]] = {}
    ahead: dict[UUID, int] = {}
    served = dict.fromkeys(line.studies, 0)

    def started(job_id: UUID) -> None:
        study = next(study for study, jobs in waiting.items() if job_id in jobs)
        assert waiting[study].pop(0) == job_id
        for other, before in served_before.pop(job_id).items():
            if other != study:
                assert served[other] - before <= ahead[job_id] + 2
        served[study] += 1

    for _ in range(n_events):
        event = chance.random()
        if event < 0.45:
            study = line.studies[min(int(chance.expovariate(0.8)), len(line.studies) - 1)]
            for _ in range(chance.choice((1, 1, 1, 6))):
                job_id = line.submit(study)
                ahead[job_id] = len(waiting[study])
                served_before[job_id] = dict(served)
                waiting[study].append(job_id)
        elif event < 0.9:
            if len(line.running) == 3:
                line.finish()
            if job_id := line.start():
                started(job_id)
        elif full := [study for study, jobs in waiting.items() if jobs]:
            study = chance.choice(full)
            job_id = chance.choice(waiting[study])
            waiting[study].remove(job_id)
            line.cancel(job_id)
    left = [job for jobs in waiting.values() for job in jobs]
    expected = sorted(left, key=lambda id: line.position(id) or 0)
    assert [line.position(id) for id in expected] == list(range(len(left)))
    for job_id in expected:
        assert line.start() == job_id
        started(job_id)
    assert line.start() is None
