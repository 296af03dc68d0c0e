# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a route of a script answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from testing.arguments import as_bytes

if TYPE_CHECKING:
    from testing.standin import StandIn


@dataclass
class Answer:
    """What a route answered; header names as the script wrote them."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


# ruff: noqa: N802 (the names of the methods below are the plugin's)
class RestOutput:
    """Behind an `orthanc.RestOutput`: keeps what a handler answers, and refuses what the real server does badly."""

    def __init__(self, standin: StandIn) -> None:
        self.answer = Answer()
        self._standin = standin

    def as_object(self) -> Any:
        here = {name: getattr(self, name) for name in self._standin.api["classes"]["RestOutput"] if hasattr(self, name)}
        return self._standin.object("RestOutput", **here)

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        if self.answer.status is not None:
            self._standin.refuse(f"a second answer ({status}) after the first ({self.answer.status})")
        self.answer.status = status
        self.answer.body = body
        self.answer.headers |= {name.replace("_", "-"): value for name, value in headers.items()}

    def AnswerBuffer(self, body: bytes | str, mime: str) -> None:
        self._send(200, as_bytes(body), Content_Type=mime)

    def SendHttpStatus(self, status: int, body: bytes | str, size: int | None = None) -> None:
        content = as_bytes(body)
        if size is not None and size != len(content):
            self._standin.refuse(f"SendHttpStatus says {size} bytes, and the body has {len(content)} in UTF-8")
        if status in (405, 429) and content:
            self._standin.refuse(f"SendHttpStatus({status}) with a body: the real server drops the connection")
        self._send(status, content)

    def SendHttpStatusCode(self, status: int) -> None:
        self._send(status)

    def SendMethodNotAllowed(self, allowed: str) -> None:
        self._send(405, Allow=allowed)

    def SendUnauthorized(self, realm: str) -> None:
        self._send(401, WWW_Authenticate=f'Basic realm="{realm}"')

    def Redirect(self, url: str) -> None:
        self._send(self._standin.api["redirect"], Location=url)

    def SetHttpHeader(self, name: str, value: str) -> None:
        self.answer.headers[name] = value

    def SetCookie(self, name: str, value: str) -> None:
        self.answer.headers["Set-Cookie"] = f"{name}={value}"

    def StartStreamAnswer(self, mime: str) -> None:
        self._send(200, Content_Type=mime)

    def SendStreamChunk(self, chunk: bytes | str) -> None:
        self.answer.body += as_bytes(chunk)
