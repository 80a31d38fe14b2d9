"""How a worker gets the data keys of the job it has claimed: it asks the API."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from uuid import UUID

from service.domain.engine_job import keys_from_json
from service.settings import Settings
from service.tls import trust_only
from service.vault.errors import KEY_ERRORS, Sealed
from service.vault.streaming import Key

FetchKeys = Callable[[UUID, int], dict[UUID, Key]]
"""Job id and fence to data keys by recording id and job id."""

REFUSALS = {error.code: error for error in (Sealed, *KEY_ERRORS)}


def keys_from_api(settings: Settings) -> FetchKeys:
    """A function that fetches the data keys of one claimed job, and of no other.

    It asks the service at `settings.url`, else the one on this machine, whose certificate is then
    the only one trusted.
    """
    url = settings.url or settings.local_url
    certificate = None if settings.url else settings.tls_certificate

    def fetch(job_id: UUID, fence: int) -> dict[UUID, Key]:
        """
        Raises:
            Sealed, Erased, KeyMissing, KeyDamaged: the API refused the keys.
            OSError: any other failure, which may pass.
        """
        # Read on every call, because a certificate may be renewed while the worker runs.
        context = None if certificate is None else trust_only(certificate)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),  # never send keys through a proxy
            urllib.request.HTTPSHandler(context=context),
        )
        request = urllib.request.Request(
            f"{url}/internal/jobs/{job_id}/keys",
            data=json.dumps({"fence": fence}).encode(),
            headers={
                "Authorization": f"Bearer {_read_token(settings)}",
                "Content-Type": "application/json",
            },
            method="POST",
        )
        try:
            with opener.open(request, timeout=30) as response:
                return keys_from_json(json.load(response)["keys"])
        except urllib.error.HTTPError as error:
            raise _as_exception(error) from None

    return fetch


def _read_token(settings: Settings) -> str:
    if settings.token:
        return settings.token.get_secret_value()
    return settings.worker_token.read_text().strip()


def _as_exception(refusal: urllib.error.HTTPError) -> Exception:
    """The vault's own error if the refusal is about the keys, else a ConnectionError."""
    with refusal:
        try:
            code = json.load(refusal).get("code")
        except ValueError:
            code = None
    if code in REFUSALS:
        return REFUSALS[code](f"The API refused the keys: {code}")
    return ConnectionError(f"the API answered with status {refusal.code}")
