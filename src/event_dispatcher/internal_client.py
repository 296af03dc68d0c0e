# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sessions: Orthanc's own REST API, by the plugin's own functions."""

from __future__ import annotations

from typing import Any, overload

import httpx

from event_dispatcher.gate import SDK, StoppedError
from event_dispatcher.sessions import Client, create_client


@overload
def create_internal_client(
    base_url: str,
    token: str = "",
    cert: str | bool = True,
    client_type: type[Client] = httpx.Client,  # type: ignore[assignment]
) -> Client: ...


@overload
def create_internal_client(
    orthanc: Any,
    client_type: type[Client] = httpx.Client,  # type: ignore[assignment]
    *,
    after_plugins: bool = False,
) -> Client: ...


def create_internal_client(*arguments: Any, **options: Any) -> Any:
    """Return a session over the plugin's own `RestApiGet` and so on: no network, no HTTP server needed.

        client = create_internal_client(orthanc)
        client.get("/system").json()["Version"]

    Only for what Orthanc answers at once: such a call holds Python's lock, and with it every other script and store.
    Statuses are those that Orthanc's error codes mean; an answer has no headers.

    Parameters
    ----------
    orthanc : the module. With an address in its place, as in orthanc-server-extensions, it is `create_client`, over HTTP.
    client_type : `httpx.Client`, or `httpx.AsyncClient` for coroutines.
    after_plugins : reach the routes of plugins and scripts too (a handler that calls its own script may do so without end).
    """
    if "base_url" in options or isinstance(next(iter(arguments), None), str | httpx.URL):
        return create_client(*arguments, **options)
    return create_client_in_process(*arguments, **options)


def create_client_in_process(
    orthanc: Any,
    client_type: type[Client] = httpx.Client,  # type: ignore[assignment]
    *,
    after_plugins: bool = False,
) -> Client:
    """Return a client whose requests are answered by the plugin's functions."""
    return client_type(base_url="http://orthanc.internal", transport=InProcess(orthanc, after_plugins))


class InProcess(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers requests by `RestApiGet`, `RestApiPost`, `RestApiPut` and `RestApiDelete`."""

    # Orthanc's error codes that are no 500 (OrthancFramework/Resources/CodeGeneration/ErrorCodes.json).
    STATUS = {
        **dict.fromkeys((3, 5, 8, 12, 15, 28), 400),
        **dict.fromkeys((7, 13, 17, 21), 404),
        **{29: 401, 34: 406, 36: 503, 41: 416, 42: 503, 43: 409, 45: 403, 46: 409, 3000: 415},
        **dict.fromkeys(range(2019, 2026), 400),
    }

    def __init__(self, orthanc: Any, after_plugins: bool) -> None:
        self._orthanc, self._suffix = orthanc, "AfterPlugins" if after_plugins else ""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._answer(request, request.read())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self._answer(request, await request.aread())

    def _answer(self, request: httpx.Request, body: bytes) -> httpx.Response:
        if request.method not in ("GET", "POST", "PUT", "DELETE"):
            return httpx.Response(405)
        call = getattr(self._orthanc, f"RestApi{request.method.capitalize()}{self._suffix}")
        path = request.url.raw_path.decode()
        try:
            with SDK.calling():
                content = call(path, body) if request.method in ("POST", "PUT") else call(path)
        except StoppedError as error:
            raise httpx.ConnectError(str(error), request=request) from None
        except self._orthanc.OrthancException as error:
            code, reason = error.args if len(error.args) == 2 else (0, str(error))
            return httpx.Response(self.STATUS.get(code, 500), json={"OrthancError": reason, "OrthancStatus": code})
        return httpx.Response(200, content=content or b"")
