"""Where the clustering runs, and what happens when that is not possible."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.diarisation import clustering
from models.diarisation.clustering import MAX_CLUSTERED, Clusters, start_clustering
from models.diarisation.diarisation import SpeakerCount, diarise
from models.errors import OutOfMemory, Stopped
from scripts.synthetic_diarisation import conversation, random_pipeline

NOTHING = np.zeros(160, dtype=np.float32)


@pytest.fixture(scope="module")
def pipeline():
    return random_pipeline()


@pytest.fixture(scope="module")
def conversed():
    return conversation(90, 3, 256)


def started(pipeline, conversed):
    segmentation, embeddings = conversed
    return start_clustering(pipeline, segmentation, embeddings, None, None)


@pytest.fixture(scope="module")
def here(pipeline, conversed):
    return started(pipeline, conversed).result()


@pytest.fixture(scope="module", autouse=True)
def no_process_stays():
    yield
    clustering._close_all()


@pytest.fixture
def apart(monkeypatch):
    """Also few embeddings are clustered in a process of their own."""
    monkeypatch.setattr(clustering, "APART_FROM", 1)


def test_the_other_process_finds_the_same_and_stays_for_the_next_session(
    pipeline, conversed, here, apart
):
    for _ in range(2):
        there = started(pipeline, conversed).result()

        assert np.array_equal(there.labels, here.labels)
        np.testing.assert_allclose(there.similarities, here.similarities, atol=1e-5)
    (helper,) = clustering._idle
    assert helper._process.pid != os.getpid()
    assert helper._process.poll() is None


def test_the_other_process_clusters_without_bounds_as_well(pipeline, conversed, here, apart):
    segmentation, embeddings = conversed
    bounded = start_clustering(pipeline, segmentation, embeddings, 2, 2, freely_too=True).result()

    assert bounded.labels.max() == 1
    assert bounded.free is not None and here.free is None
    assert np.array_equal(bounded.free.labels, here.labels)


def test_a_job_can_stop_while_the_other_process_works(pipeline, conversed, apart, monkeypatch):
    monkeypatch.setattr(clustering, "POLL_SECONDS", 1e-4)

    def stop(fraction: float) -> None:
        raise Stopped

    begun = started(pipeline, conversed)
    with pytest.raises(Stopped):
        begun.result(stop)
    assert len(begun.result().labels) == len(conversed[1])


def test_where_no_process_can_be_started_this_one_clusters(
    pipeline, conversed, here, apart, monkeypatch
):
    def refused(*args, **kwargs):
        raise PermissionError

    clustering._close_all()
    monkeypatch.setattr(subprocess, "Popen", refused)
    clustering.prepare(10_000)
    found = started(pipeline, conversed).result()

    assert np.array_equal(found.labels, here.labels)


IN_A_SANDBOX = """
from models.audio.sandbox import PR_SET_NO_NEW_PRIVS, prctl, refuse_system_calls
from models.diarisation import clustering
from scripts.synthetic_diarisation import conversation, random_pipeline
clustering.APART_FROM = 1
assert prctl(PR_SET_NO_NEW_PRIVS, 1) and refuse_system_calls()
pipeline = random_pipeline()
found = clustering.start_clustering(pipeline, *conversation(30, 2, 256), None, None).result()
print(found.labels.shape)
"""


def test_a_process_that_may_start_no_other_clusters_itself():
    root = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_SANDBOX],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "(21, 3)\n"


def replaced(monkeypatch, program):
    """Another program in place of the helper."""
    clustering._close_all()
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **options: popen([*command[:2], program], **options)
    )


def test_a_helper_that_fails_is_replaced_by_this_process(
    pipeline, conversed, here, apart, monkeypatch
):
    replaced(monkeypatch, "import sys; sys.exit(1)")
    found = started(pipeline, conversed).result()

    assert np.array_equal(found.labels, here.labels)
    assert not clustering._idle


def test_a_helper_that_is_killed_has_run_out_of_memory(pipeline, conversed, apart, monkeypatch):
    """To try the same here would kill this process, and all other jobs with it."""
    replaced(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(OutOfMemory):
        started(pipeline, conversed).result()


def test_more_embeddings_than_the_limit_are_clustered_by_an_even_sample(
    pipeline, conversed, monkeypatch
):
    segmentation, embeddings = conversed
    count = SpeakerCount(3, 3)
    everything = diarise(pipeline, NOTHING, segmentation, count, embeddings=embeddings)
    monkeypatch.setattr(clustering, "MAX_CLUSTERED", 30)
    sample = diarise(pipeline, NOTHING, segmentation, count, embeddings=embeddings)

    assert sample.sampled and not everything.sampled
    assert [(t.start, t.end) for t in sample.turns] == [(t.start, t.end) for t in everything.turns]


def test_eight_hours_do_not_cluster_more_than_the_limit(pipeline, monkeypatch):
    sizes = []

    def count(task):
        sizes.append(len(task["chunks"]))
        return clustering._done({})

    monkeypatch.setattr(clustering, "_apart", count)
    segmentation, embeddings = conversation(60, 3, 256)
    long = type(segmentation)(
        np.tile(segmentation.activity, (200, 1, 1)), 10.0, 1.0, 0.0619375, 0.016875, 10_209.0
    )
    start_clustering(pipeline, long, np.tile(embeddings, (200, 1, 1)), None, None)

    assert sizes == [MAX_CLUSTERED]


def test_more_than_127_clusters_have_labels_of_their_own():
    """pyannote's own labels are int8: the 129th cluster would be number -128."""
    soft = np.zeros((200, 1, 200))
    soft[np.arange(200), 0, np.arange(200)] = 1

    assert clustering._constrained_argmax(soft)[:, 0].tolist() == list(range(200))


def test_a_margin_is_to_the_nearest_other_cluster():
    similarities = np.array([[[0.9, 0.2, 0.6], [0.8, 0.1, 0.3]]], dtype=np.float32)
    clusters = Clusters(np.array([[0, 2]]), similarities, sampled=False)

    np.testing.assert_allclose(clusters.margins, [[0.3, -0.5]], atol=1e-6)
