"""Outages of the database in the log: a line, not a traceback."""

import logging
import sys

import psycopg
import psycopg_pool
import pytest
from procrastinate.exceptions import ConnectorException
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.processes import LineFormatter, RepeatFilter, log_to_stderr

SECRET = "host=db password=Quendolin"


def formatted(error, message="Main coroutine error, initiating shutdown %s"):
    try:
        raise error
    except type(error):
        record = logging.LogRecord("procrastinate", 40, "x", 1, message, ("now",), sys.exc_info())
    return LineFormatter("%(levelname)s %(name)s: %(message)s").format(record)


def chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (psycopg.OperationalError(SECRET), "OperationalError"),
        (psycopg.errors.AdminShutdown(SECRET), "AdminShutdown"),
        (psycopg_pool.PoolTimeout(SECRET), "PoolTimeout"),
        (PoolTimeout(SECRET), "TimeoutError"),
        (OperationalError("SELECT", {}, psycopg.OperationalError(SECRET)), "OperationalError"),
        (chained(ConnectorException(), psycopg.OperationalError(SECRET)), "OperationalError"),
        (ExceptionGroup("tasks", [psycopg.OperationalError(SECRET)]), "OperationalError"),
    ],
)
def test_an_outage_is_one_line_without_the_errors_message(error, name):
    assert formatted(error) == (
        "ERROR procrastinate: Main coroutine error, initiating shutdown now: "
        f"the database does not respond ({name})"
    )


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        TimeoutError(),
        psycopg.errors.UniqueViolation(),
        ExceptionGroup("tasks", [psycopg.OperationalError(), ValueError("a bug")]),
    ],
)
def test_every_other_error_keeps_its_traceback(error):
    assert "Traceback" in formatted(error)


def test_an_outage_that_ends_a_process_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        root.handlers = []
        log_to_stderr()
        error = psycopg.OperationalError(SECRET)
        sys.excepthook(type(error), error, None)
    finally:
        root.handlers = handlers
        root.setLevel(level)

    logged = capsys.readouterr().err
    assert logged.count("\n") == 1
    assert "the process ends: the database does not respond (OperationalError)" in logged


def test_a_warning_that_repeats_is_written_once_a_minute():
    now = [0.0]
    repeats = RepeatFilter(lambda: now[0])

    def passes(message, level=logging.WARNING):
        record = logging.LogRecord("service", level, "x", 1, message, (), None)
        return record.getMessage() if repeats.filter(record) else None

    assert passes("lost") == "lost"
    assert passes("lost") is passes("lost") is None
    assert passes("another") == "another"
    assert passes("lost", logging.ERROR) == passes("lost", logging.ERROR) == "lost"
    now[0] = 61.0
    assert passes("lost") == "lost (2 more times before)"
    assert passes("lost") is None
    now[0] = 200.0
    assert passes("new") == "new"
    assert len(repeats._seen) == 1
