"""A small OpenID Connect provider on this machine, which a test tells to misbehave."""

import base64
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "fieldscribe", "a secret: with/odd+characters"


class OpenIdProvider:
    """Signs everybody in whom a test names. The attributes are what a test may change."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})
        self.reset()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"

    def reset(self) -> None:
        self.claims: dict[str, Any] = {}  # that replace those of the next ID token
        self.user_info: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.signing: dict[str, Any] = {"header": {"alg": "RS256", "kid": "k1"}}
        self.status = 200
        self.delay = 0.0  # s between two bytes of an answer
        self.n_requests = 0
        self._codes: dict[str, dict[str, str]] = {}

    def authorise(self, location: str, subject: str, **claims: Any) -> str:
        """Sign somebody in: the address that the browser is sent back to."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        assert asked["response_type"] == "code" and asked["code_challenge_method"] == "S256"
        code = f"code-{len(self._codes)}-{time.monotonic_ns()}"
        self._codes[code] = {**asked, "sub": subject, "claims": json.dumps(claims)}
        answer = {"code": code, "state": asked["state"], "iss": self.issuer}
        return f"{asked['redirect_uri']}?{urlencode(answer)}"

    @contextmanager
    def running(self) -> Iterator["OpenIdProvider"]:
        thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield self
        self._server.shutdown()
        self._server.server_close()
        thread.join()

    def _handler(provider) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self._send(*provider._read(self.path, self.headers.get("Authorization", "")))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                self._send(*provider._redeem(form, self.headers.get("Authorization", "")))

            def _send(self, status: int, content: Any) -> None:
                provider.n_requests += 1
                body = json.dumps(content).encode()
                self.send_response(provider.status if status == 200 else status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    for i in range(len(body) if provider.delay else 0):
                        self.wfile.write(body[i : i + 1])
                        time.sleep(provider.delay)
                    self.wfile.write(b"" if provider.delay else body)
                except OSError:
                    pass  # the client has given up

        return Handler

    def _read(self, path: str, authorisation: str) -> tuple[int, Any]:
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorise",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "userinfo_endpoint": f"{self.issuer}/me",
                "authorization_response_iss_parameter_supported": True,
                **self.metadata,
            }
        if path == "/keys":
            return 200, {"keys": [self.key.as_dict(private=False)]}
        if path == "/me" and authorisation.startswith("Bearer access-"):
            return 200, {"sub": authorisation.removeprefix("Bearer access-"), **self.user_info}
        return 404, {}

    def _redeem(self, form: dict[str, str], authorisation: str) -> tuple[int, Any]:
        pair = base64.b64decode(authorisation.removeprefix("Basic ")).decode().split(":")
        asked = self._codes.pop(form.get("code", ""), None)
        if [unquote_plus(each) for each in pair] != [CLIENT, SECRET]:
            return 401, {"error": "invalid_client"}
        digest = sha256(form.get("code_verifier", "").encode()).digest()
        challenge = encode(digest)
        if (
            asked is None
            or form["redirect_uri"] != asked["redirect_uri"]
            or challenge != asked["code_challenge"]
        ):
            return 400, {"error": "invalid_grant"}
        claims = {
            "iss": self.issuer,
            "sub": asked["sub"],
            "aud": CLIENT,
            "nonce": asked["nonce"],
            "iat": int(time.time()),
            "exp": int(time.time()) + 300,
            **json.loads(asked["claims"]),
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return 200, {
            "access_token": f"access-{asked['sub']}",
            "token_type": "Bearer",
            "id_token": self._sign(claims),
        }

    def _sign(self, claims: dict[str, Any]) -> str:
        header = self.signing["header"]
        if header["alg"] in ("none", "HS256"):  # joserfc refuses to make these
            text = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
            secret = self.key.as_pem(private=False)  # some libraries once accepted the public key
            signature = hmac.digest(secret, text.encode(), sha256)
            return f"{text}.{encode(signature) if header['alg'] == 'HS256' else ''}"
        key = self.signing.get("key", self.key)
        return jwt.encode(header, claims, key, algorithms=[header["alg"]])


def encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
