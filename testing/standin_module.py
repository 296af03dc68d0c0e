# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes the module of a stand-in: the names of the real one, and calls that come to the stand-in."""

from __future__ import annotations

import builtins
import json
import re
import types
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from testing.arguments import check_arguments

if TYPE_CHECKING:
    from testing.standin import StandIn

NO_FILE = "/nonexistent/orthanc.json"  # of the configuration, which is an attribute of the stand-in


def make_module(standin: StandIn) -> types.ModuleType:
    module = types.ModuleType("orthanc")
    for name, bases in standin.api["exceptions"].items():
        setattr(module, name, type(name, tuple(getattr(builtins, base) for base in bases), {"__module__": "orthanc"}))
    for name, constants in standin.api["enumerations"].items():
        setattr(module, name, type(name, (), {"__module__": "orthanc", **constants}))
    for name, methods in standin.api["classes"].items():
        setattr(module, name, make_class(standin, name, methods))
    for name, signature in standin.api["functions"].items():
        setattr(module, name, make_function(standin, name, signature))
    return module


def make_class(standin: StandIn, name: str, methods: dict[str, Any]) -> type:
    def refuse(*_: Any) -> None:
        raise ValueError("Expected a pair (pointer, borrowed) in the constructor")

    names = {method: make_method(standin, f"{name}.{method}", one) for method, one in methods.items()}
    return type(name, (), {"__module__": "orthanc", "__init__": refuse, **names})


def make_method(standin: StandIn, name: str, signature: dict[str, Any]) -> Callable[..., Any]:
    def call(instance: Any, *arguments: Any) -> Any:
        check_arguments(signature, arguments)
        return standin._give(instance.prepared, name, arguments, f"standin.object(…, {name.partition('.')[2]}=…)")

    return call


def make_function(standin: StandIn, name: str, signature: dict[str, Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        if named:
            raise TypeError(f"orthanc.{name}() takes no keyword arguments")
        check_arguments(signature, arguments)
        standin.calls.append((name, arguments))
        if name in standin.returns:
            return standin._give(standin.returns, name, arguments, "")
        if name.startswith("Register") or name.startswith("ExtendOrthancExplorer"):
            return standin._register(name, arguments)
        if named_request := re.fullmatch("RestApi(Get|Post|Put|Delete)(AfterPlugins)?", name):
            return standin._rest_api(named_request[1].upper(), bool(named_request[2]), *arguments)
        if named_log := re.fullmatch("Log(Error|Warning|Info)", name):
            return standin.logs.append((named_log[1].lower(), arguments[0]))
        if name == "GetConfiguration":
            return json.dumps(standin.configuration)
        if name == "GetConfigurationPath":
            return NO_FILE
        if name == "GenerateUuid":
            return str(uuid.uuid4())
        return standin._give(standin.returns, name, arguments, f"standin.returns[{name!r}] = …")

    call.__name__ = call.__qualname__ = name
    return call
