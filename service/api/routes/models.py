"""Installed weights."""

from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from models.errors import WeightsError
from models.weights.catalogue import DEMO, KNOWN, check_installed
from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.domain.callers import STUDY_READERS, Caller

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=GuardedRoute)
AnyUser = Annotated[Caller, Depends(allow(*STUDY_READERS, sealed_too=True))]


class ModelView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "large-v3-turbo", "kind": "whisper", "demo": False}]
        }
    )

    name: str
    kind: Literal["whisper", "pyannote"]
    demo: bool


class Models(BaseModel):
    items: list[ModelView]


@router.get("")
def list_models(caller: AnyUser, services: ServicesDep) -> Models:
    """Installed weights, by the names that jobs can use. The demo weights are always there."""
    demo = [ModelView(name=DEMO, kind=kind, demo=True) for kind in ("whisper", "pyannote")]
    return Models(items=[*installed(services.settings.weights), *demo])


def installed(folder: Path) -> list[ModelView]:
    found = []
    for model in KNOWN.values():
        if model.kind == "spacy":
            continue  # no job names one
        try:
            check_installed(model, folder)
        except WeightsError:
            continue
        found.append(ModelView(name=model.name, kind=model.kind, demo=False))
    return found
