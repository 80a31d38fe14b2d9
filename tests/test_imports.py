"""What the service's processes load: no web framework in a worker, no models in the API."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.worker.protocol import ENGINE_CHILD, PIPELINE_ENGINE

ROOT = Path(__file__).parent.parent
MODELS = {"torch", "whisper", "pyannote"}
WEB = {"fastapi", "starlette", "uvicorn"}


def loaded_by(*modules: str) -> set[str]:
    """Top-level packages in a fresh interpreter that imports these modules."""
    program = f"import sys, {', '.join(modules)}; print(*{{n.split('.')[0] for n in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_api_loads_no_models():
    loaded = loaded_by("service.api.process", "service.api.app")

    assert WEB <= loaded
    assert not MODELS & loaded


def test_the_worker_loads_no_web_framework_and_no_models():
    assert not (WEB | MODELS) & loaded_by("service.worker.process")


@pytest.mark.parametrize("modules", [[ENGINE_CHILD], [ENGINE_CHILD, PIPELINE_ENGINE]])
def test_the_engine_child_loads_no_web_framework(modules):
    assert not WEB & loaded_by(*modules)
