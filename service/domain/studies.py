"""Studies: created, found, changed, and their vocabularies."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.weights.catalogue import DEMO, find_model
from service.database import tables
from service.database.tables import Study, TokenStudy
from service.domain import audit
from service.domain.callers import OWNER, Caller
from service.domain.consent import change_rules
from service.domain.locks import refuse_duplicate
from service.domain.pages import Page, decode_cursor, encode_cursor, parse_cursor_id
from service.errors import NotAllowed, StudyCodeTaken, StudyNotFound, StudyUnclear
from service.services import Services
from service.vault import ArtefactClass
from service.vault.errors import Erased
from service.vault.store import Artefact

VOCABULARY = "vocabulary"
DATE_POLICIES = ("keep_year", "shift", "generalise")
NAME_POLICIES = ("codes", "chosen")


@dataclass(frozen=True)
class DeidentificationPolicy:
    """How a study replaces what identifies people.

    Args:
        dates: `keep_year`; `shift` by the participant's secret number of days; or `generalise`.
        names: people get `codes` or `chosen` names.
        custodian_keys: age recipients, to whom the linkage table is encrypted.
    """

    dates: str = "keep_year"
    names: str = "codes"
    custodian_keys: tuple[str, ...] = ()


def create_study(
    session: DbSession,
    services: Services,
    caller: Caller,
    *,
    code: str,
    language: str | None,
    model: str | None,
) -> Study:
    """Create a study and its keys. A caller who is limited to some studies gets access to it.

    Raises:
        StudyCodeTaken, UnknownModel, DiskFull
    """
    refuse_unknown_model(model)
    study = Study(id=uuid4(), code=code, language=language, model=model)
    session.add(study)
    taken = StudyCodeTaken(
        "Another study has this code, or had it before it was deleted: choose another"
    )
    with refuse_duplicate("uq_study_code", taken):
        session.flush()
    create_study_keys(services, study.id)  # only now: a request that is refused leaves no keys
    if not caller.all_studies:
        session.add(TokenStudy(token_id=caller.token_id, study_id=study.id))
    audit.record(session, caller, "study.created", study.id, {"study": study.id})
    return study


def list_studies(
    session: DbSession, caller: Caller, *, limit: int, cursor: str | None
) -> Page[Study]:
    """A page of the caller's studies, by code.

    Raises:
        BadCursor
    """
    query = caller.restrict(select(Study).where(Study.erased_at.is_(None)), Study.id)
    if cursor is not None:
        id, code = decode_cursor(cursor)
        parse_cursor_id(id)  # refuses the cursor of another list
        query = query.where(Study.code > code)
    rows = session.scalars(query.order_by(Study.code).limit(limit + 1)).all()
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(rows[:limit], encode_cursor(str(last.id), last.code) if last else None)


def find_only_study(services: Services, caller: Caller) -> str:
    """The id of the caller's only study, for requests that name none.

    Raises:
        StudyUnclear
    """
    with services.sessionmaker() as session:
        query = caller.restrict(select(Study.id).where(Study.erased_at.is_(None)), Study.id)
        ids = session.scalars(query.limit(2)).all()
    if len(ids) != 1:
        raise StudyUnclear(
            "The token has several studies: name one with ?study=CODE, or use a token of one study"
            if ids
            else "The token has no study: create one that names a study"
        )
    return str(ids[0])


def find_study(session: DbSession, caller: Caller, id_or_code: str | UUID) -> Study:
    """
    Raises:
        StudyNotFound: it does not exist, or is not the caller's.
        Erased
    """
    id = parse_id(id_or_code)
    study = session.scalar(
        select(Study).where(Study.id == id if id is not None else Study.code == id_or_code)
    )
    if study is None or not caller.may_see(study.id):
        raise StudyNotFound("There is no such study, or it is not yours")
    refuse_erased(study)
    return study


def change_study(
    session: DbSession, caller: Caller, id_or_code: str, changes: Mapping[str, Any]
) -> Study:
    """
    Args:
        changes: new values by name, of `language`, `model`, `admins_may_create`, `attributes`,
            `consent_warnings` and `deidentification`, of which fields that are left out stay as
            they are.

    Raises:
        StudyNotFound, UnknownModel, Erased
        NotAllowed: only an owner changes what admins may create.
    """
    refuse_unknown_model(changes.get("model"))
    study = find_study(session, caller, id_or_code)
    if "admins_may_create" in changes and caller.role != OWNER:
        raise NotAllowed("Only an owner may change which tokens admins may create")
    for name, value in changes.items():
        if name == "deidentification":
            value = {**study.deidentification, **value}
        if name == "consent_warnings":
            change_rules(session, caller, study, value)
        else:
            setattr(study, name, value)
    detail: dict[str, audit.Value] = {"fields": sorted(changes)}
    audit.record(session, caller, "study.changed", study.id, {"study": study.id}, detail=detail)
    return study


def read_policy(study: Study) -> DeidentificationPolicy:
    stored = study.deidentification
    known = {name: stored[name] for name in asdict(DeidentificationPolicy()) if name in stored}
    if "custodian_keys" in known:
        known["custodian_keys"] = tuple(known["custodian_keys"])
    return DeidentificationPolicy(**known)


def refuse_unknown_model(name: str | None) -> None:
    """Only the name is checked: whether the model is installed is checked when a job is submitted.

    Raises:
        UnknownModel
    """
    if name is not None and name != DEMO:
        find_model(name, "whisper")


def refuse_erased(owner: Study | tables.Session) -> None:
    """
    Raises:
        Erased
    """
    if owner.erased_at is not None:
        raise Erased(f"The {owner.__tablename__} was erased")


def parse_id(id_or_code: str | UUID) -> UUID | None:
    """The id; None for a code, which is always shorter."""
    if isinstance(id_or_code, UUID):
        return id_or_code
    return UUID(id_or_code) if len(id_or_code) == 36 and "-" in id_or_code[8:9] else None


def create_study_keys(services: Services, study_id: UUID) -> None:
    """Create the study key of every class, and the data key of the study's own artefacts."""
    for keyring in services.vault.keyrings.values():
        keyring.create_study_key(study_id)
    services.vault.keyrings[ArtefactClass.IDENTIFIED].create_data_key(study_id, study_id)


# --- vocabularies ---------------------------------------------------------------------------------


def read_vocabulary(services: Services, study: Study) -> list[str]:
    """Words to expect in the study's recordings.

    Raises:
        Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    if study.vocabulary_artefact_id is None:
        return []
    key = services.vault.keyrings[ArtefactClass.IDENTIFIED].data_key(study.id, study.id)
    artefact = Artefact(study.id, study.id, VOCABULARY, study.vocabulary_artefact_id)
    with services.vault.stores[ArtefactClass.IDENTIFIED].open(artefact, key) as file:
        words: list[str] = json.loads(file.read())
    return words


def replace_vocabulary(
    services: Services, caller: Caller, id_or_code: str, words: list[str]
) -> None:
    """
    Raises:
        StudyNotFound, Erased, KeyMissing, KeyDamaged, DiskFull
    """
    with services.sessionmaker.begin() as session:
        study = find_study(session, caller, id_or_code)
        old = study.vocabulary_artefact_id
        study.vocabulary_artefact_id = write_vocabulary(services, study.id, words)
        audit.record(
            session,
            caller,
            "vocabulary.replaced",
            study.id,
            {"study": study.id},
            detail={"words": len(words)},
        )
    if old is not None:
        services.vault.stores[ArtefactClass.IDENTIFIED].keep_another_week(old)


def write_vocabulary(services: Services, study_id: UUID, words: list[str]) -> UUID | None:
    """
    Returns:
        Id of a new artefact; None if there are no words.
    """
    if not words:
        return None
    key = services.vault.keyrings[ArtefactClass.IDENTIFIED].data_key(study_id, study_id)
    artefact = Artefact(study_id, study_id, VOCABULARY, uuid4())
    with services.vault.stores[ArtefactClass.IDENTIFIED].write(artefact, key) as file:
        file.write(json.dumps(words).encode())
    return artefact.id
