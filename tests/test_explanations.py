"""What is said of a job's errors."""

from service.domain.explanations import EXPLANATIONS, explain
from tests.test_docs import error_classes


def test_every_code_that_is_explained_exists():
    codes = {error.code for error in error_classes()}  # type: ignore[attr-defined]

    assert set(EXPLANATIONS) <= codes


def test_every_error_of_the_models_is_explained():
    """Any of them may end a job; a person is told what to do, not that code."""
    from models.errors import SpeechError

    weights_only = {  # of `fieldscribe models`, never of a job
        "network_unavailable",
        "access_denied",
        "checksum_mismatch",
        "unsafe_bundle",
        "no_space",
        "cannot_write_weights",
    }
    codes = {error.code for error in error_classes() if issubclass(error, SpeechError)}

    assert codes - weights_only <= set(EXPLANATIONS)


def test_a_code_that_nobody_explained_still_has_an_action():
    assert explain("something_new").user_action
