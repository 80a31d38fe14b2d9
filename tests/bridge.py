"""Lets client libraries that use httpx talk to the API in the test's process."""

import httpx

from tests.api import Api


class Bridge(httpx.BaseTransport):
    def __init__(self, api: Api) -> None:
        self._api = api
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._api.client.request(
            request.method,
            request.url.raw_path.decode(),
            content=request.read(),
            headers=dict(request.headers),
        )
        headers = {
            name: value
            for name, value in answer.headers.items()
            if name not in ("content-encoding", "content-length")
        }
        return httpx.Response(
            answer.status_code, headers=headers, content=answer.content, request=request
        )
