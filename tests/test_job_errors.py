"""Titles and advice for the errors of a job."""

import subprocess
import sys

from models.errors import ASK_ADMINISTRATOR, SpeechError
from service.domain.job_errors import error_action, error_title, find_error
from tests.test_docs import error_classes


def test_every_error_of_the_models_has_its_own_advice():
    """Any of them may end a job; its owner learns what to do, not just a code."""
    without = [
        error
        for error in error_classes()
        if issubclass(error, SpeechError) and "user_action" not in vars(error)
    ]

    assert without == []


def test_advice_and_titles_are_sentences():
    for error in error_classes():
        assert error.user_action.endswith("."), error  # type: ignore[attr-defined]
        assert error_title(error.code).endswith("."), error  # type: ignore[attr-defined]


def test_errors_of_the_models_are_found_by_code_without_torch():
    codes = [error.code for error in error_classes() if issubclass(error, SpeechError)]
    program = f"""
import sys
from service.domain.job_errors import find_error
assert [code for code in {codes!r} if find_error(code) is None] == []
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_code_still_has_a_title_and_advice():
    assert find_error("something_new") is None
    assert error_title("something_new") == "The job ended with something_new."
    assert error_action("something_new") == ASK_ADMINISTRATOR
