# SPDX-License-Identifier: AGPL-3.0-or-later
"""A strict stand-in for the module `orthanc` of the Python plugin: a script is loaded and tried in milliseconds.

It is made of testing/api/VERSION.json, what the real plugin of that version was seen to have: the same names,
enumerations, numbers and types of arguments, and the same errors. What it can't know it refuses: a function without a
prepared answer raises an AssertionError that says how to prepare one.
"""

from __future__ import annotations

import builtins
import concurrent.futures
import functools
import json
import re
import sys
import types
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testing.logs import assert_logged, assert_not_logged

API = Path(__file__).parent / "api"
METHODS = ("GET", "POST", "PUT", "DELETE")
KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "bytes": (bytes,), "int": (int,), "float": (float, int)}


def known_versions() -> list[str]:
    """The versions of the plugin that the stand-in can be, oldest first."""
    return sorted((path.stem for path in API.glob("*.json")), key=lambda name: [int(part) for part in name.split(".")])


@functools.cache
def api(version: str) -> dict[str, Any]:
    """What is known of the plugin of that version."""
    if version not in known_versions():
        raise ValueError(f"no plugin {version!r} is known: one of {', '.join(known_versions())}")
    content: dict[str, Any] = json.loads((API / f"{version}.json").read_text())
    return content


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


class StandIn:
    """One `orthanc` module, of one version of the plugin, and what a test says to it and sees of it.

    Attributes
    ----------
    module
        What `import orthanc` gives inside `installed()`.
    configuration
        What `GetConfiguration` gives, as a dict.
    answers
        What `RestApiGet` and friends give: `answers["GET", "/system"]` = bytes, text, something JSON can write, an
        exception to raise, or a function of the body.
    returns
        What any other function gives: `returns["GetDicomForInstance"]` = a value, an exception to raise, or a function
        of the arguments.
    logs
        (level, text) of each LogError, LogWarning, LogInfo; the level is "error", "warning", "info".
    calls
        (name, arguments) of each call of a function of the module, in order.
    registered
        The arguments of each call of a Register… function, by its name: `registered["RegisterOnChangeCallback"]`.
    unexpected
        What was refused; the fixture fails when it is not empty, for a script may swallow an AssertionError.
    """

    def __init__(self, version: str = "4.0", configuration: dict[str, Any] | None = None) -> None:
        self.version = version
        self.api = api(version)
        self.configuration = configuration or {}
        self.answers: dict[tuple[str, str], Any] = {}
        self.returns: dict[str, Any] = {}
        self.logs: list[tuple[str, str]] = []
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.registered: dict[str, list[tuple[Any, ...]]] = {}
        self.unexpected: list[str] = []
        self._modules: list[str] = []
        self._folders: list[str] = []
        self.module = self._make_module()

    # The module

    def _make_module(self) -> types.ModuleType:
        module = types.ModuleType("orthanc")
        for name, bases in self.api["exceptions"].items():
            setattr(
                module, name, type(name, tuple(getattr(builtins, base) for base in bases), {"__module__": "orthanc"})
            )
        for name, constants in self.api["enumerations"].items():
            setattr(module, name, type(name, (), {"__module__": "orthanc", **constants}))
        for name, methods in self.api["classes"].items():
            setattr(module, name, self._make_class(name, methods))
        for name, signature in self.api["functions"].items():
            setattr(module, name, self._make_function(name, signature))
        return module

    def _make_class(self, name: str, methods: dict[str, Any]) -> type:
        def refuse(*_: Any) -> None:
            raise ValueError("Expected a pair (pointer, borrowed) in the constructor")

        names = {method: self._make_method(f"{name}.{method}", one) for method, one in methods.items()}
        return type(name, (), {"__module__": "orthanc", "__init__": refuse, **names})

    def _make_method(self, name: str, signature: dict[str, Any]) -> Callable[..., Any]:
        def call(instance: Any, *arguments: Any) -> Any:
            check_arguments(signature, arguments)
            return self._give(instance.prepared, name, arguments, f"standin.object(…, {name.partition('.')[2]}=…)")

        return call

    def _make_function(self, name: str, signature: dict[str, Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if named:
                raise TypeError(f"orthanc.{name}() takes no keyword arguments")
            check_arguments(signature, arguments)
            self.calls.append((name, arguments))
            if name in self.returns:
                return self._give(self.returns, name, arguments, "")
            if name.startswith("Register") or name.startswith("ExtendOrthancExplorer"):
                return self._register(name, arguments)
            if named_request := re.fullmatch("RestApi(Get|Post|Put|Delete)(AfterPlugins)?", name):
                return self._rest_api(named_request[1].upper(), bool(named_request[2]), *arguments)
            if named_log := re.fullmatch("Log(Error|Warning|Info)", name):
                return self.logs.append((named_log[1].lower(), arguments[0]))
            if name == "GetConfiguration":
                return json.dumps(self.configuration)
            if name == "GenerateUuid":
                return str(uuid.uuid4())
            return self._give(self.returns, name, arguments, f"standin.returns[{name!r}] = …")

        call.__name__ = call.__qualname__ = name
        return call

    def _give(self, prepared: dict[str, Any], name: str, arguments: tuple[Any, ...], how: str) -> Any:
        key = name.rpartition(".")[2]
        if key not in prepared:
            self.refuse(
                f"orthanc.{name}{arguments!r} was called, and no answer is prepared: {how}"
                " (a value, an exception to raise, or a function of the arguments)"
            )
        return given(prepared[key], *arguments)

    def _register(self, name: str, arguments: tuple[Any, ...]) -> None:
        for earlier in self.registered:
            if refused := self.api["refusals"].get(earlier, {}).get(name):
                raise_as(refused)
        self.registered.setdefault(name, []).append(arguments)

    def _rest_api(self, method: str, after_plugins: bool, uri: str, body: bytes | str = b"") -> bytes | None:
        content = body.encode() if isinstance(body, str) else body
        if after_plugins and (method, uri) not in self.answers and self._route(uri.partition("?")[0]):
            answer = self.http(method, uri, body=content)
        elif (method, uri) in self.answers:
            prepared = self.answers[method, uri]
            answer = Answer(200, body=as_bytes(given(prepared, content)))
        else:
            self.refuse(
                f"the script asks {method} {uri} of Orthanc, and no answer is prepared: standin.answers"
                f"[{method!r}, {uri!r}] = bytes, text, JSON, an exception to raise, or a function of the body"
            )
        return None if method == "DELETE" else answer.body

    def refuse(self, why: str) -> None:
        """Fail the test, even if the script swallows the error."""
        self.unexpected.append(why)
        raise AssertionError(why)

    # The script

    @contextmanager
    def installed(self) -> Iterator[StandIn]:
        """Inside, `import orthanc` gives this one; afterwards, all is as before, loaded scripts included."""
        before, path = dict(sys.modules), list(sys.path)
        sys.modules["orthanc"] = self.module
        try:
            yield self
        finally:
            sys.path[:] = path
            for name in ["orthanc", *self._modules]:
                sys.modules.pop(name, None)
                if name in before:
                    sys.modules[name] = before[name]

    def load(self, script: Path | str) -> types.ModuleType:
        """Run a script as the plugin does (a module of the file's name, its folder first on `sys.path`), anew each time.

        `script` is a path, or the source: a text with at least one line break. What it raises comes out here.
        """
        if sys.modules.get("orthanc") is not self.module:
            raise AssertionError("load() inside `with standin.installed():`, or with the fixture orthanc_standin")
        if isinstance(script, str) and "\n" in script:
            path, source = Path("script.py"), script
        else:
            path = Path(script).absolute()
            source = path.read_text()
            sys.path.insert(0, str(path.parent))
        module = types.ModuleType(path.stem)
        module.__file__ = str(path)
        sys.modules[path.stem] = module  # dataclasses look their own module up
        self._modules.append(path.stem)
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 (a script is run)
        return module

    def assert_logged(self, text: str, level: str | None = None) -> None:
        """Fail unless `text` was logged, at that level ("error", "warning", "info") where one is given."""
        assert_logged(self.logs, text, level)

    def assert_not_logged(self, text: str = "", level: str | None = None) -> None:
        """Fail if `text` was logged, or anything at all of that level."""
        assert_not_logged(self.logs, text, level)

    def callback(self, name: str) -> Any:
        """The callback that was registered with the function of that name, the last; several as a tuple."""
        if not self.registered.get(name):
            raise AssertionError(f"the script has not called orthanc.{name}")
        arguments = self.registered[name][-1]
        return arguments[0] if len(arguments) == 1 else arguments

    def object(self, kind: str, **prepared: Any) -> Any:
        """An object of a class of the module, e.g. `object("DicomInstance", GetInstanceData=b"…")`.

        Each method gives what is prepared: a value, an exception to raise, or a function of the arguments.
        """
        cls = getattr(self.module, kind)
        for name in prepared:
            getattr(cls, name)  # an AttributeError names what the class does not have in this version
        made = cls.__new__(cls)
        made.prepared = prepared
        return made

    def change(self, change_type: int, level: int, identifier: str) -> Any:
        """Call the script's OnChange callback, and give what it returns; of futures, their results, or their errors.

        (Orthanc ignores what OnChange returns. Futures are what `event_dispatcher.py` returns: one for each handler.)
        """
        for name, value in (("ChangeType", change_type), ("ResourceType", level)):
            if value not in self.api["enumerations"][name].values():
                raise AssertionError(f"{value!r} is no orthanc.{name} of plugin {self.version}")
        returned = self.callback("RegisterOnChangeCallback")(change_type, level, identifier)
        return [outcome(each) for each in returned] if isinstance(returned, list) else returned

    def on_change(self, change_type: Any, resource_type: Any = None, resource_id: str | None = None) -> Any:
        """As `change`, for an event with `change_type`, `resource_type` and `resource_id`; or for these three.

        The last two may be left out, or None, where the event is about no resource.
        """
        if hasattr(change_type, "change_type"):
            event = change_type
            change_type, resource_type, resource_id = event.change_type, event.resource_type, event.resource_id
        if resource_type is None or resource_type == "":
            resource_type = self.module.ResourceType.NONE
        return self.change(change_type, resource_type, resource_id or "")

    def _route(self, path: str) -> tuple[re.Match[str], Callable[..., Any]] | None:
        for pattern, handler in self.registered.get("RegisterRestCallback", []):
            if found := re.fullmatch(pattern, path):
                return found, handler
        return None

    def http(
        self,
        method: str,
        uri: str,
        *,
        get: dict[str, str] | None = None,
        body: bytes | str = b"",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request to the script's routes, as a client would, and give the answer.

        The first route that was registered and matches the whole path gets it, with the arguments that the plugin of this
        version gives. `get` is added to what stands behind a "?" in `uri`. What the handler raises comes out here (the
        real server logs it, and answers 500).

        Raises
        ------
        AssertionError
            If no route matches, if it answers nothing (the real server drops the connection), or if the method is not
            GET, POST, PUT or DELETE (others never reach a script).
        """
        if method not in METHODS:
            raise AssertionError(f"{method} never reaches a script: one of {', '.join(METHODS)}")
        path, _, query = uri.partition("?")
        found = self._route(path)
        if not found:
            patterns = [arguments[0] for arguments in self.registered.get("RegisterRestCallback", [])]
            raise AssertionError(f"no route of the script matches {path}: it has {patterns}")
        request: dict[str, Any] = {"method": method, "groups": tuple(group or "" for group in found[0].groups())}
        if method == "GET":
            request["get"] = self._get_arguments(query, get or {})
        request["headers"] = {name.lower(): value for name, value in (headers or {}).items()}
        if method in ("POST", "PUT"):
            request["body"] = body.encode() if isinstance(body, str) else body
        output = RestOutput(self)
        found[1](output.as_object(), path, **request)
        if output.answer.status is None:
            self.refuse(f"the handler of {method} {path} answered nothing: the real server drops the connection")
        return output.answer

    def _get_arguments(self, query: str, more: dict[str, str]) -> dict[str, str]:
        sent = [part.partition("=")[::2] for part in query.split("&") if part]
        sent += [(urllib.parse.quote(name), urllib.parse.quote(value)) for name, value in more.items()]
        if self.api["decodes"]:
            sent = [(urllib.parse.unquote_plus(name), urllib.parse.unquote_plus(value)) for name, value in sent]
        return dict(sent)


class OrthancApiHandler(StandIn):
    """A stand-in that is handed over as the module itself: `register_event_handlers(handlers, OrthancApiHandler(), session)`.

    It has an authorization token, and may be common to several tests: a later registration of a callback replaces the
    earlier one, which on a real Orthanc ends the server (the fixture `orthanc_standin` refuses it).
    """

    def __init__(
        self,
        configuration: dict[str, Any] | None = None,
        version: str = "4.0",
        *,
        config: dict[str, Any] | None = None,  # its name in orthanc-server-extensions
    ) -> None:
        super().__init__(version, configuration or config)
        self.returns["GenerateRestApiAuthorizationToken"] = "token"
        self.module.ChangeType.UNKNOWN = 999  # no event: tests written for orthanc-server-extensions begin with it

    def __getattr__(self, name: str) -> Any:
        if name == "module":  # not made yet
            raise AttributeError(name)
        return getattr(self.module, name)

    def _register(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name != "RegisterRestCallback":
            self.registered.pop(name, None)
        super()._register(name, arguments)


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


def check_arguments(signature: dict[str, Any], arguments: tuple[Any, ...]) -> None:
    """Raise what the real function raises on another number or other types of arguments."""
    wrong, kinds = signature["wrong"], signature["types"]
    if wrong is None:
        return
    if len(arguments) != signature["arguments"]:
        raise_as(wrong)
    for value, allowed in zip(arguments, kinds or (), strict=False):
        anything = len(allowed) == len(KINDS)
        if not anything and not isinstance(value, tuple(each for kind in allowed for each in KINDS[kind])):
            raise_as(wrong)


def raise_as(error: list[str]) -> None:
    """Raise a built-in exception that was seen at the real plugin: [type, message]."""
    raise getattr(builtins, error[0])(error[1])


def given(prepared: Any, *arguments: Any) -> Any:
    """A prepared value; or raise it, if it is an exception; or what it gives, if it is a function."""
    if isinstance(prepared, BaseException):
        raise prepared
    return prepared(*arguments) if callable(prepared) else prepared


def outcome(future: Any, within: float = 60) -> Any:
    """The result of a future, or the error it ended with; of anything else, that itself."""
    if not isinstance(future, concurrent.futures.Future):
        return future
    if not concurrent.futures.wait([future], within).done:
        raise AssertionError(f"a handler has not ended within {within:g} s")
    return concurrent.futures.CancelledError() if future.cancelled() else future.exception() or future.result()


def as_bytes(value: Any) -> bytes:
    """A body: bytes as they are, a text in UTF-8, all else as JSON."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode()
