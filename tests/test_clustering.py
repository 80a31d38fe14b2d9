"""The process that clustering runs in, and what happens if there is none."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from models.diarisation import clustering
from models.diarisation.clustering import (
    MAX_CLUSTERED,
    Clusters,
    prepare_clustering,
    start_clustering,
)
from models.diarisation.clustering_process import ClusteringProcesses, completed
from models.diarisation.pyannote_clustering import _constrained_argmax
from models.errors import OutOfMemory, Stopped
from models.options import SpeakerCount
from scripts.synthetic_diarisation import conversation, random_pipeline
from tests.diarising import diarise

NOTHING = np.zeros(160, dtype=np.float32)


@pytest.fixture(scope="module")
def pipeline():
    return random_pipeline()


@pytest.fixture(scope="module")
def generated():
    return conversation(90, 3, 256)


def start(pipeline, generated):
    segmentation, embeddings = generated
    return start_clustering(pipeline, segmentation, embeddings, None, None)


@pytest.fixture(scope="module")
def here(pipeline, generated):
    return start(pipeline, generated).result()


@pytest.fixture(scope="module", autouse=True)
def close_processes(pipeline):
    yield
    pipeline.clustering_processes.close()


@pytest.fixture
def apart(monkeypatch):
    """Cluster in another process however few the embeddings are."""
    monkeypatch.setattr(clustering, "MIN_APART", 1)


def test_the_other_process_finds_the_same_clusters_and_is_reused(pipeline, generated, here, apart):
    for _ in range(2):
        there = start(pipeline, generated).result()

        assert np.array_equal(there.labels, here.labels)
        np.testing.assert_allclose(there.similarities, here.similarities, atol=1e-5)
    (process,) = pipeline.clustering_processes._idle
    assert process._process.pid != os.getpid()
    assert process._process.poll() is None


def test_the_other_process_ends_with_the_models():
    processes = ClusteringProcesses()
    processes.prepare()
    process = processes._idle[0]._process
    del processes
    gc.collect()

    assert process.returncode is not None


PREPARE_AND_WAIT = """
from models.diarisation.clustering_process import ClusteringProcesses
processes = ClusteringProcesses()
processes.prepare()
print(processes._idle[0]._process.pid, flush=True)
input()
"""


@pytest.mark.slow
def test_the_other_process_ends_when_its_parent_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", PREPARE_AND_WAIT],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    deadline = time.monotonic() + 60
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.1)

    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_other_process_clusters_without_bounds_as_well(pipeline, generated, here, apart):
    segmentation, embeddings = generated
    bounded = start_clustering(
        pipeline, segmentation, embeddings, 2, 2, unbounded_too=True
    ).result()

    assert bounded.labels.max() == 1
    assert bounded.unbounded is not None and here.unbounded is None
    assert np.array_equal(bounded.unbounded.labels, here.labels)


def test_a_job_can_stop_while_the_other_process_works(pipeline, generated, apart, monkeypatch):
    monkeypatch.setattr(clustering, "POLL_SECONDS", 1e-4)

    def stop(fraction: float) -> None:
        raise Stopped

    begun = start(pipeline, generated)
    with pytest.raises(Stopped):
        begun.result(stop)
    assert len(begun.result().labels) == len(generated[1])


def test_if_no_process_can_be_started_this_one_clusters(
    pipeline, generated, here, apart, monkeypatch
):
    def refused(*args, **kwargs):
        raise PermissionError

    pipeline.clustering_processes.close()
    monkeypatch.setattr(subprocess, "Popen", refused)
    prepare_clustering(pipeline, 10_000)
    found = start(pipeline, generated).result()

    assert np.array_equal(found.labels, here.labels)


IN_A_SANDBOX = """
from models.audio.sandbox import PR_SET_NO_NEW_PRIVS, prctl, refuse_system_calls
from models.diarisation import clustering
from scripts.synthetic_diarisation import conversation, random_pipeline
clustering.MIN_APART = 1
pipeline = random_pipeline()  # its imports create files
assert prctl(PR_SET_NO_NEW_PRIVS, 1) and refuse_system_calls()
found = clustering.start_clustering(pipeline, *conversation(30, 2, 256), None, None).result()
print(found.labels.shape)
"""


def test_a_sandboxed_process_clusters_itself():
    root = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_SANDBOX],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "(21, 3)\n"


def replace_program(pipeline, monkeypatch, program):
    """Start another program in place of the clustering process."""
    pipeline.clustering_processes.close()
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **options: popen([*command[:2], program], **options)
    )


def test_this_process_clusters_if_the_other_one_fails(
    pipeline, generated, here, apart, monkeypatch
):
    replace_program(pipeline, monkeypatch, "import sys; sys.exit(1)")
    found = start(pipeline, generated).result()

    assert np.array_equal(found.labels, here.labels)
    assert not pipeline.clustering_processes._idle


def test_a_process_that_is_killed_has_run_out_of_memory(pipeline, generated, apart, monkeypatch):
    """Clustering in this process instead would kill it, and the job with it."""
    replace_program(pipeline, monkeypatch, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(OutOfMemory):
        start(pipeline, generated).result()


def test_an_even_sample_is_clustered_if_there_are_too_many_embeddings(
    pipeline, generated, monkeypatch
):
    segmentation, embeddings = generated
    count = SpeakerCount(3, 3)
    everything = diarise(pipeline, NOTHING, segmentation, count, embeddings=embeddings)
    monkeypatch.setattr(clustering, "MAX_CLUSTERED", 30)
    sample = diarise(pipeline, NOTHING, segmentation, count, embeddings=embeddings)

    assert sample.sampled and not everything.sampled
    assert [(t.start, t.end) for t in sample.turns] == [(t.start, t.end) for t in everything.turns]


def test_at_most_the_limit_is_clustered_of_eight_hours(pipeline, monkeypatch):
    sizes = []

    def count(task):
        sizes.append(len(task["chunks"]))
        return completed({})

    monkeypatch.setattr(pipeline.clustering_processes, "submit", count)
    segmentation, embeddings = conversation(60, 3, 256)
    long = type(segmentation)(
        np.tile(segmentation.activity, (200, 1, 1)), 10.0, 1.0, 0.0619375, 0.016875, 10_209.0
    )
    start_clustering(pipeline, long, np.tile(embeddings, (200, 1, 1)), None, None)

    assert sizes == [MAX_CLUSTERED]


def test_more_than_127_clusters_have_distinct_labels():
    """pyannote's own labels are int8: the 129th cluster would be number -128."""
    soft = np.zeros((200, 1, 200))
    soft[np.arange(200), 0, np.arange(200)] = 1

    assert _constrained_argmax(soft)[:, 0].tolist() == list(range(200))


def test_a_margin_is_to_the_nearest_other_cluster():
    similarities = np.array([[[0.9, 0.2, 0.6], [0.8, 0.1, 0.3]]], dtype=np.float32)
    clusters = Clusters(np.array([[0, 2]]), similarities, sampled=False)

    np.testing.assert_allclose(clusters.margins, [[0.3, -0.5]], atol=1e-6)
