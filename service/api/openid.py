"""The client of the OpenID Connect provider of single sign-on.

It uses the authorisation code flow with PKCE and a nonce. The provider's addresses come from its
discovery document and its keys are fetched at each sign-in, so nothing here becomes out of date.
Neither what the provider sends nor the address of its answer is logged: both hold names or codes.
"""

import asyncio
import base64
import hmac
import json
import logging
import math
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Self
from urllib.parse import quote_plus

import httpx2
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import OpenIDProviderMetadata, get_well_known_url
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from service.api.cookies import ATTEMPT_LASTS
from service.domain.sign_on import Identity, read_client_secret
from service.errors import SignOnNotConfigured, SignOnRefused, SignOnUnavailable
from service.settings import Settings, is_safe_url

TIMEOUT = 10.0  # s, for everything that one request asks of the provider
REST_AFTER_FAILURE = 3.0  # s in which nobody else waits for a provider that did not answer
MAX_EXCHANGES = 4  # at the same time
MAX_ANSWER_BYTES = 256 * 2**10
LEEWAY = 60  # s that the provider's clock may differ
# Signatures with a private key only: `none`, and the client's secret as a key, are refused.
ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    "Ed25519",
)  # fmt: skip
LOCAL_PATH = r"^/(?:[!-.0-\[\]-~][!-\[\]-~]*)?$"  # on this site: ASCII without \, not //
START_AGAIN = "start again from the sign-in page"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """One browser's way to the provider and back. `cookie` is all that is kept of it.

    The other values are derived from the cookie with a key, so a forged cookie fits no state.
    """

    cookie: str  # random, the time in seconds since 1970, and the path of the page to open next
    state: str
    nonce: str
    verifier: str  # of PKCE

    @classmethod
    def start(cls, key: bytes, next_path: str) -> Self:
        encoded = base64.urlsafe_b64encode(next_path.encode()).decode().rstrip("=")
        return cls._derive(key, f"{secrets.token_urlsafe(32)}.{int(time.time())}.{encoded}")

    @classmethod
    def read(cls, key: bytes, cookie: str | None, state: str) -> Self:
        """
        Raises:
            SignOnRefused: the browser has no such attempt, or it is too old.
        """
        refusal = SignOnRefused(
            f"The sign-in took too long, or another browser or tab began it: {START_AGAIN}"
        )
        if cookie is None or not re.fullmatch(r"[\w-]{43}\.\d{1,12}\.[\w-]*", cookie, re.ASCII):
            raise refusal
        attempt = cls._derive(key, cookie)
        age = time.time() - int(cookie.split(".")[1])
        if not hmac.compare_digest(attempt.state.encode(), state.encode()) or age > ATTEMPT_LASTS:
            raise refusal
        return attempt

    @classmethod
    def _derive(cls, key: bytes, cookie: str) -> Self:
        def derive(name: str) -> str:
            digest = hmac.digest(key, f"{name}:{cookie}".encode(), sha256)
            return base64.urlsafe_b64encode(digest).decode().rstrip("=")

        return cls(cookie, derive("state"), derive("nonce"), derive("verifier"))

    @property
    def next(self) -> str:
        """Path of the page to open afterwards, as given to `start`."""
        encoded = self.cookie.rpartition(".")[2]
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()


class Provider:
    """The provider that the settings name."""

    def __init__(self, settings: Settings) -> None:
        """
        Raises:
            SignOnNotConfigured
        """
        if settings.sign_on_issuer is None or settings.sign_on_client_id is None:
            raise SignOnNotConfigured(
                "Single sign-on is not set up: an administrator sets FIELDSCRIBE_SIGN_ON_ISSUER"
            )
        self._issuer, self._client_id = settings.sign_on_issuer, settings.sign_on_client_id
        self._settings = settings
        self._exchanges = asyncio.Semaphore(MAX_EXCHANGES)
        self._failed_at = -math.inf

    async def authorisation_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """The provider's address at which the person signs in.

        Raises:
            SignOnUnavailable
        """
        async with self._exchange() as http:
            metadata = await self._discover(http)
        url: str = prepare_grant_uri(
            metadata["authorization_endpoint"],
            client_id=self._client_id,
            response_type="code",
            redirect_uri=redirect_uri,
            scope="openid email",
            state=attempt.state,
            nonce=attempt.nonce,
            code_challenge=create_s256_code_challenge(attempt.verifier),
            code_challenge_method="S256",
        )
        return url

    async def identify(
        self, attempt: Attempt, code: str, redirect_uri: str, issuer: str | None
    ) -> Identity:
        """Who has signed in at the provider.

        Args:
            issuer: the answer's `iss` parameter (RFC 9207).

        Raises:
            SignOnRefused: the code or the ID token is not valid, or is not for this attempt.
            SignOnUnavailable
        """
        async with self._exchange() as http:
            metadata = await self._discover(http)
            promised = metadata.get("authorization_response_iss_parameter_supported") is True
            if (issuer is not None or promised) and issuer != self._issuer:
                raise SignOnRefused(f"The answer comes from another provider: {START_AGAIN}")
            answer = await self._redeem(http, metadata, code, attempt.verifier, redirect_uri)
            keys = await self._fetch(http, "GET", metadata["jwks_uri"])
            claims = self._validate(answer, keys, attempt.nonce)
            email = verified_email(claims)
            if email is None and "userinfo_endpoint" in metadata:
                email = verified_email(await self._read_user_info(http, metadata, answer, claims))
        return Identity(claims["sub"], email)

    async def _discover(self, http: httpx2.AsyncClient) -> OpenIDProviderMetadata:
        url: str = get_well_known_url(self._issuer, external=True)
        metadata = OpenIDProviderMetadata(await self._fetch(http, "GET", url))
        needed = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        addresses = [metadata.get(name) for name in needed]
        if "userinfo_endpoint" in metadata:
            addresses.append(metadata["userinfo_endpoint"])
        if metadata.get("issuer") != self._issuer:
            raise self._unusable("its discovery document names another issuer")
        if not all(isinstance(url, str) and is_safe_url(url, self._issuer) for url in addresses):
            raise self._unusable(
                "its discovery document has an address that is missing or no https"
            )
        return metadata

    async def _redeem(
        self,
        http: httpx2.AsyncClient,
        metadata: Mapping[str, Any],
        code: str,
        verifier: str,
        redirect_uri: str,
    ) -> dict[str, Any]:
        """The tokens for a code."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        secret = read_client_secret(self._settings)
        methods = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if secret is not None and "client_secret_basic" in methods:
            pair = f"{quote_plus(self._client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = self._client_id
            if secret is not None:
                form["client_secret"] = secret
        return await self._fetch(
            http, "POST", metadata["token_endpoint"], data=form, headers=headers, may_refuse=True
        )

    def _validate(
        self, answer: Mapping[str, Any], keys: dict[str, Any], nonce: str
    ) -> dict[str, Any]:
        """The claims of the ID token, once its signature and they are found valid."""
        try:
            token = jwt.decode(
                str(answer.get("id_token")),
                KeySet.import_key_set(keys),  # type: ignore[arg-type]
                algorithms=ALGORITHMS,
            )
            claims = CodeIDToken(
                token.claims,
                token.header,
                options={
                    "iss": {"essential": True, "value": self._issuer},
                    "sub": {"essential": True},
                    "aud": {"essential": True, "value": self._client_id},
                    "exp": {"essential": True},
                    "iat": {"essential": True},
                },
                params={
                    "nonce": nonce,
                    "client_id": self._client_id,
                    "access_token": answer.get("access_token"),
                },
            )
            claims.validate(leeway=LEEWAY)
        except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("single sign-on: the ID token is not valid: %s", type(error).__name__)
            raise SignOnRefused(
                f"The provider's confirmation is not valid: {START_AGAIN}. If this happens again, "
                "ask your administrator"
            ) from None
        return dict(claims)

    async def _read_user_info(
        self,
        http: httpx2.AsyncClient,
        metadata: Mapping[str, Any],
        answer: Mapping[str, Any],
        claims: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Further claims; many providers leave the e-mail address out of the ID token."""
        headers = {"Authorization": f"Bearer {answer.get('access_token')}"}
        url = metadata["userinfo_endpoint"]
        found = await self._fetch(http, "GET", url, headers=headers, may_refuse=True)
        if found.get("sub") != claims["sub"]:  # see OpenID Connect Core, 5.3.2
            raise SignOnRefused(f"The provider's answers are about two people: {START_AGAIN}")
        return found

    async def _fetch(
        self,
        http: httpx2.AsyncClient,
        method: str,
        url: str,
        *,
        may_refuse: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """The JSON object at an address.

        Args:
            may_refuse: whether a status of 400 to 403 is the person's failure and not the
                provider's.
        """
        body = bytearray()
        async with http.stream(method, url, **options) as response:
            if may_refuse and response.status_code in (400, 401, 403):
                log.warning("single sign-on: the provider answers %s", response.status_code)
                raise SignOnRefused(
                    f"The provider did not confirm the sign-in: {START_AGAIN}. If this happens "
                    "again, ask your administrator"
                )
            if response.status_code != 200:
                raise self._unusable(f"it answers with status {response.status_code}")
            async for block in response.aiter_bytes():
                body += block
                if len(body) > MAX_ANSWER_BYTES:
                    raise self._unusable("its answer is too long")
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._unusable("its answer is not a JSON object")
        return found

    @asynccontextmanager
    async def _exchange(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A client for one exchange with the provider, all of which must end within TIMEOUT."""
        if time.monotonic() < self._failed_at + REST_AFTER_FAILURE:
            raise self._unavailable()
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                self._exchanges,
                httpx2.AsyncClient(verify=self._tls, trust_env=False, timeout=TIMEOUT) as http,
            ):
                yield http
        except (TimeoutError, httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            self._failed_at = time.monotonic()
            log.warning("single sign-on: the provider does not answer: %s", type(error).__name__)
            raise self._unavailable() from None

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def _unavailable(self) -> SignOnUnavailable:
        return SignOnUnavailable(
            f"{self._settings.sign_on_label} does not answer: try again in a minute, or sign in "
            "with a key or a link"
        )

    def _unusable(self, reason: str) -> SignOnUnavailable:
        log.warning("single sign-on: the provider cannot be used: %s", reason)
        return self._unavailable()


def verified_email(claims: Mapping[str, Any]) -> str | None:
    """The e-mail address, if the provider says that it has made sure it is the person's."""
    email = claims.get("email")
    verified = claims.get("email_verified") in (True, "true")  # some providers send a string
    return email if isinstance(email, str) and verified else None
