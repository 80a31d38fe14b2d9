"""The four requests of the hand-off contract (docs/developer/handoff.md)."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from models.deidentification.occurrences import Occurrence
from service.settings import Settings
from service.tls import trust_only

TIMEOUT = 60.0  # s


class ClaimLost(Exception):
    """The hand-off is no longer ours: another stage has it, or it has ended or was erased."""


class Unavailable(Exception):
    """The API does not answer, or cannot now; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class RequestRefused(Exception):
    """The API refused a request, for good; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Claim:
    """`roster` is the study's entities, each with id, kind, name and aliases."""

    id: str
    fence: int
    language: str
    segments: list[dict[str, Any]]
    roster: list[dict[str, Any]]


class HandoffClient:
    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    def claim(self) -> Claim | None:
        """Claim the oldest free hand-off; None if there is none.

        Raises:
            Unavailable, RequestRefused
        """
        body = self._post("claim", None)
        if body is None:
            return None
        return Claim(
            id=body["id"],
            fence=body["fence"],
            language=body["transcript"].get("language") or "en",
            segments=body["transcript"]["segments"],
            roster=body.get("roster") or [],
        )

    def heartbeat(self, claim: Claim) -> None:
        """
        Raises:
            ClaimLost, Unavailable, RequestRefused
        """
        self._post(f"{claim.id}/heartbeat", {"fence": claim.fence})

    def complete(self, claim: Claim, occurrences: Sequence[Occurrence]) -> None:
        """
        Raises:
            ClaimLost, Unavailable, RequestRefused
        """
        found = [occurrence_to_json(occurrence) for occurrence in occurrences]
        self._post(f"{claim.id}/complete", {"fence": claim.fence, "occurrences": found})

    def fail(self, claim: Claim, code: str) -> None:
        """
        Raises:
            ClaimLost, Unavailable, RequestRefused
        """
        self._post(f"{claim.id}/fail", {"fence": claim.fence, "code": code})

    def _post(self, path: str, body: Any) -> Any:
        try:
            response = self._http.post(f"/v1/handoffs/{path}", json=body)
        except httpx2.TransportError:
            raise Unavailable("service_unreachable") from None
        if response.is_success:
            return response.json() if response.content else None
        code = _problem_code(response)
        if path != "claim" and response.status_code in (404, 409, 410):
            raise ClaimLost(code)
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise Unavailable(code)
        raise RequestRefused(code)


def occurrence_to_json(occurrence: Occurrence) -> dict[str, Any]:
    return {
        "segment": occurrence.segment_id,
        "start": occurrence.start,
        "end": occurrence.end,
        "words": occurrence.words,
        "label": occurrence.label,
        "tier": occurrence.tier,
        "score": occurrence.score,
        "rule": occurrence.rule[:100],
        "entity": occurrence.entity,
    }


def _problem_code(response: httpx2.Response) -> str:
    """The code of a problem, never its text."""
    try:
        return str(response.json()["code"])
    except (ValueError, LookupError, TypeError):
        return f"status_{response.status_code}"


def open_http(settings: Settings) -> httpx2.Client:
    """A client with our token, for the service at `url`, else the one on this machine.

    Raises:
        OSError: the token or the certificate cannot be read.
    """
    tls: ssl.SSLContext | None = None
    if settings.url is None and settings.tls_certificate is not None:
        tls = trust_only(settings.tls_certificate)
    token = (
        settings.token.get_secret_value()
        if settings.token
        else settings.deidentifier_token.read_text()
    )
    return httpx2.Client(
        base_url=(settings.url or settings.local_url).rstrip("/"),
        headers={"Authorization": f"Bearer {token.strip()}"},
        timeout=httpx2.Timeout(TIMEOUT, connect=10.0),
        verify=tls or ssl.create_default_context(),
        trust_env=False,  # no proxy sees a transcript
    )
