# SPDX-License-Identifier: AGPL-3.0-or-later
"""A strict stand-in for the module `orthanc` of the Python plugin: a script is loaded and tried in milliseconds.

It is made of testing/api/VERSION.json, what the real plugin of that version was seen to have: the same names,
enumerations, numbers and types of arguments, and the same errors. What it can't know it refuses: a function without a
prepared answer raises an AssertionError that says how to prepare one.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testing.arguments import as_bytes, given, outcome, query_arguments, raise_as
from testing.logs import assert_logged, assert_not_logged
from testing.rest_output import Answer as Answer
from testing.rest_output import RestOutput as RestOutput
from testing.standin_module import make_module

API = Path(__file__).parent / "api"
METHODS = ("GET", "POST", "PUT", "DELETE")


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


@functools.lru_cache(maxsize=64)
def _compiled(source: str, path: str) -> types.CodeType:
    """Compile a script once, though each test runs it anew: a large one takes longer than most tests."""
    return compile(source, path, "exec")


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
        self.module = make_module(self)

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
            for name in ["orthanc", *self._modules, *self._packages(before)]:
                sys.modules.pop(name, None)
                if name in before:
                    sys.modules[name] = before[name]

    def _packages(self, before: Mapping[str, types.ModuleType]) -> list[str]:
        """Return the modules of packages that were imported since then and know this stand-in: they would call no other."""
        new = {name: module for name, module in sys.modules.items() if name.partition(".")[0] not in before}
        ours = {name.partition(".")[0] for name, each in new.items() if getattr(each, "orthanc", None) is self.module}
        return [name for name in new if name.partition(".")[0] in ours]

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
        exec(_compiled(source, str(path)), module.__dict__)  # noqa: S102 (a script is run)
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
            request["get"] = query_arguments(query, get or {}, decodes=self.api["decodes"])
        request["headers"] = {name.lower(): value for name, value in (headers or {}).items()}
        if method in ("POST", "PUT"):
            request["body"] = body.encode() if isinstance(body, str) else body
        output = RestOutput(self)
        found[1](output.as_object(), path, **request)
        if output.answer.status is None:
            self.refuse(f"the handler of {method} {path} answered nothing: the real server drops the connection")
        return output.answer


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
