"""The metrics of `/metrics`, in the text format of Prometheus."""

import shutil
from collections.abc import Iterable, Iterator

from fastapi.routing import APIRoute
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from service.api.limits import Limits
from service.domain import counts
from service.domain.monitoring import backup_age, read_work
from service.domain.workers import list_workers
from service.services import Services

OTHER = ("other", "other")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # s


class RequestMetrics:
    """Responses by route and status, and their durations. "other" is every path without a route."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._responses = Counter(
            "fieldscribe_http_requests_total",
            "Responses by method, route and status.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "fieldscribe_http_request_seconds",
            "Seconds until a response was sent; requests with `wait` included.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self._registry,
        )

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        labels = (scope["method"], route.path) if isinstance(route, APIRoute) else OTHER
        self._responses.labels(*labels, str(status)).inc()
        self._seconds.labels(*labels).observe(seconds)

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, gauges: Iterable[Metric]) -> None:
        self._gauges = list(gauges)

    def collect(self) -> Iterable[Metric]:
        return self._gauges


def render(requests: RequestMetrics, services: Services, limits: Limits) -> bytes:
    """
    Raises:
        OperationalError: the database does not respond.
    """
    registry = CollectorRegistry()
    gauges = [*_row_counts(services), _workers(services), *_gauges(services, limits)]
    registry.register(_Gauges(gauges))
    return generate_latest(registry) + requests.render()


def _row_counts(services: Services) -> Iterator[Metric]:
    with services.sessionmaker() as session:
        rows = (
            ("jobs", "Jobs by status.", "status", counts.count_jobs(session)),
            ("handoffs", "Hand-offs by status.", "status", counts.count_handoffs(session)),
            ("recordings", "Recordings by state.", "state", counts.count_recordings(session)),
        )
    for name, meaning, label, by_state in rows:
        family = GaugeMetricFamily(f"fieldscribe_{name}", meaning, labels=[label])
        for state, n in by_state.items():
            family.add_metric([state], n)
        yield family


def _workers(services: Services) -> Metric:
    """1 for each running worker's state. A device that is retired takes no jobs."""
    family = GaugeMetricFamily(
        "fieldscribe_worker",
        "1 for each running worker, by its state.",
        labels=["host", "device", "state"],
    )
    with services.sessionmaker() as session:
        for worker in list_workers(session):
            busy = "busy" if worker.job_id else "idle"
            state = "retired" if worker.retired_because else busy
            family.add_metric([worker.host, worker.device, state], 1)
    return family


def _gauges(services: Services, limits: Limits) -> Iterator[Metric]:
    data = services.settings.data
    with services.sessionmaker() as session:
        work = read_work(session)
    free = shutil.disk_usage(data).free if data.exists() else 0
    values: list[tuple[str, str, float]] = [
        ("sealed", "1 while the vault is sealed.", services.vault.sealed),
        ("disk_free_bytes", "Free space of the data folder.", free),
        ("uploads_arriving", "Requests that send a recording.", limits.receiving.borrowed_tokens),
        ("requests_waiting", "Requests that wait for a change.", limits.n_waiting),
        ("workers_alive", "Workers with a recent heartbeat.", work.n_workers),
        ("queue_oldest_seconds", "Age of the oldest queued job; 0: none.", work.oldest),
    ]
    if (age := backup_age(services.settings)) is not None:
        values.append(("backup_age_seconds", "Age of the latest backup.", age.total_seconds()))
    for name, meaning, value in values:
        yield GaugeMetricFamily(f"fieldscribe_{name}", meaning, value=value)
