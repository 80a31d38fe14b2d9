"""Installed weights."""

from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from models.errors import WeightsError
from models.weights.catalogue import DEMO, KNOWN, check_installed
from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.domain.callers import STUDY_READERS, Caller

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=GuardedRoute)
AnyUser = Annotated[Caller, Depends(allow(*STUDY_READERS, sealed_too=True, basic_too=True))]


class ModelView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "large-v3-turbo", "kind": "whisper", "demo": False}]
        }
    )

    name: str
    kind: Literal["whisper", "pyannote"]
    demo: bool


class OpenAiModel(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="Always 0: not known.")
    owned_by: str = "fieldscribe"


class Models(BaseModel):
    items: list[ModelView]
    object: Literal["list"] = Field(default="list", description="For clients of OpenAI's API.")
    data: list[OpenAiModel] = Field(description="The Whisper models, for clients of OpenAI's API.")


@router.get("")
def list_models(caller: AnyUser, services: ServicesDep) -> Models:
    """Installed weights, by the names that jobs can use. The demo weights are always there.

    As on `/asr`, the token may be the password of HTTP Basic, as which Speakr sends it.
    """
    demo = [ModelView(name=DEMO, kind=kind, demo=True) for kind in ("whisper", "pyannote")]
    items = [*installed(services.settings.weights), *demo]
    names = [model.name for model in items if model.kind == "whisper"]
    return Models(items=items, data=[OpenAiModel(id=name) for name in names])


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
