"""The API's description covers every answer to random requests from schemathesis."""

import contextlib
import threading
import time
from pathlib import Path

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from service.api.app import create_app
from service.settings import Settings
from tests.api import Api


def refuses_invalid_data(context, response, case):
    """As schemathesis has it, but invalid data may also be too long to be looked at."""
    if response.status_code != 413:
        negative_data_rejection(context, response, case)


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    missing_required_header,
    refuses_invalid_data,
    unsupported_method,
]
EXAMPLES = 10  # valid ones and invalid ones, per operation
NOWHERE = Settings(data=Path("/nowhere/data"), keys=Path("/nowhere/keys"))
DESCRIBED = schemathesis.openapi.from_dict(create_app(NOWHERE).openapi())
OPERATIONS = {
    operation.label: operation
    for operation in (result.ok() for result in DESCRIBED.get_all_operations())  # type: ignore[union-attr]
}


@schemathesis.serializer("application/offset+octet-stream")
def serialize_bytes(context, value):
    return value if isinstance(value, bytes) else str(value).encode()


class Server:
    """Runs the API on a port, because schemathesis has its own client."""

    def __init__(self, app):
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=0, access_log=False, log_config=None, lifespan="on")
        )
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.05)
        (self.port,) = [
            each.getsockname()[1] for one in self._server.servers for each in one.sockets
        ]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def address(module_settings):
    """The API's URL and an owner's token."""
    app = create_app(module_settings)
    server = Server(app)
    token = Api(app, None).token("owner", all_studies=True)  # type: ignore[arg-type]
    yield f"http://127.0.0.1:{server.port}", token
    server.stop()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_every_answer_is_documented(address, label, mode):
    url, token = address

    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case):
        headers = {"Authorization": f"Bearer {token}"}
        case.call_and_validate(base_url=url, headers=headers, checks=CHECKS)

    with contextlib.suppress(Unsatisfiable):  # no request to this operation can be invalid
        ask()
