# SPDX-License-Identifier: AGPL-3.0-or-later
"""Script for a real Orthanc that looks at the plugin's own `orthanc` module; `GET /probe` answers what it found, as JSON.

`python -m testing.refresh` keeps that as testing/api/VERSION.json; the stand-in and the type stub are made of it.

Nothing is called in the server itself: each try runs in a forked child, so a function that acts, hangs on a mutex, or
crashes on the invalid object that it is given, harms nobody. A crash tells, too: the arguments had been accepted.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import resource
import signal
import types
from collections.abc import Callable, Sequence
from typing import Any

import orthanc

Error = list[str] | None
TOO_MANY = 40
CRASHED = ["child", "died"]
NOWHERE = 4096  # an address that is never mapped: who follows it dies at once
KINDS = ("", b"", 0, 0.0)  # empty, for what does act with them


def run(calls: Sequence[Callable[[], object]]) -> list[Error]:
    """What each call raises ([type, message], or None), in forked children; `CRASHED` where one died, or took 2 s."""
    found: list[Error] = []
    while len(found) < len(calls):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                for call in calls[len(found) :]:
                    signal.alarm(2)
                    os.write(write, json.dumps(raised_by(call)).encode() + b"\n")
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            found += [json.loads(line) for line in pipe]
        os.waitpid(child, 0)
        found += [CRASHED] if len(found) < len(calls) else []
    return found


def raised_by(call: Callable[[], object]) -> Error:
    try:
        call()
    except Exception as error:  # noqa: BLE001 (any is an answer here)
        return [type(error).__name__, str(error)]
    return None


def signature(function: Callable[..., object]) -> dict[str, Any]:
    """How many arguments a function takes, of what types, and what it raises on others.

    `wrong` is None where nothing can be wrong: arguments are ignored. `types` has a list for each argument; it is None
    where no simple values fit, and for more than three arguments.
    """
    wrong = run([lambda: function(*[object()] * TOO_MANY)])[0]
    if wrong in (None, CRASHED):
        return {"arguments": 0, "wrong": None, "types": []}
    assert wrong
    told = re.search(r"\((\d+) arguments expected\)", wrong[1])
    count = int(told[1]) if told else next(n for n in range(9) if accepted(function, n, wrong))
    fits = accepted(function, count, wrong) if count <= 3 else []
    fitting = [values for values, error in fits if not (error and error[1].startswith("Invalid orthanc."))]
    kinds = [sorted({type(value).__name__ for value in column}) for column in zip(*fitting, strict=True)]
    return {"arguments": count, "wrong": wrong, "types": kinds or None}


def accepted(function: Callable[..., object], count: int, wrong: Error) -> list[tuple[tuple[object, ...], Error]]:
    """The combinations of `KINDS` of that number that don't give the error of wrong arguments, and what they give."""
    tries = list(itertools.product(KINDS, repeat=count))
    raised = run([lambda each=each: function(*each) for each in tries])  # type: ignore[misc]
    return [(each, error) for each, error in zip(tries, raised, strict=True) if error != wrong]


def constants(kind: type) -> dict[str, int]:
    return {name: value for name, value in vars(kind).items() if type(value) is int}


def methods(kind: type) -> dict[str, Any]:
    """Each method of a class, tried on an object that points nowhere and is not ours to free."""
    return {
        name: signature(getattr(kind(NOWHERE, True), name))
        for name, value in sorted(vars(kind).items())
        if isinstance(value, types.MethodDescriptorType)
    }


def refusals(functions: dict[str, Any]) -> dict[str, dict[str, Error]]:
    """For each function that registers a callback: which refuse to work after it, itself included, and how."""
    registering = [name for name in functions if re.fullmatch(r"Register\w*(Callback|Filter|StorageArea)\d*", name)]

    def register(name: str) -> None:
        callbacks = functions[name]["arguments"]
        getattr(orthanc, name)(*(["/x", print] if name == "RegisterRestCallback" else [print] * callbacks))

    def one_after_another(first: str, then: str) -> None:
        register(first)
        register(then)

    found: dict[str, dict[str, Error]] = {}
    for first in registering:
        for then in registering:
            error = run([lambda first=first, then=then: one_after_another(first, then)])[0]  # type: ignore[misc]
            if error:
                found.setdefault(first, {})[then] = error
    return found


def probe() -> dict[str, Any]:
    public = {name: value for name, value in sorted(vars(orthanc).items()) if not name.startswith("_")}
    kinds = {name: value for name, value in public.items() if isinstance(value, type)}
    exceptions = {name: value for name, value in kinds.items() if issubclass(value, BaseException)}
    enumerations = {name: values for name, value in kinds.items() if (values := constants(value))}
    functions = {
        name: signature(value) for name, value in public.items() if isinstance(value, types.BuiltinFunctionType)
    }
    return {
        "functions": functions,
        "enumerations": enumerations,
        "classes": {name: methods(value) for name, value in kinds.items() if name not in enumerations | exceptions},
        "exceptions": {name: [base.__name__ for base in value.__bases__] for name, value in exceptions.items()},
        "others": sorted(set(public) - set(kinds) - set(functions)),
        "refusals": refusals(functions),
    }


FOUND = json.dumps(probe())


def answer(output: orthanc.RestOutput, uri: str, **request: Any) -> None:
    output.AnswerBuffer(FOUND, "application/json")


def answer_get(output: orthanc.RestOutput, uri: str, **request: Any) -> None:
    output.AnswerBuffer(json.dumps(request["get"]), "application/json")


def redirect(output: orthanc.RestOutput, uri: str, **request: Any) -> None:
    output.Redirect("/probe")


orthanc.RegisterRestCallback("/probe", answer)
orthanc.RegisterRestCallback("/probe/redirect", redirect)
orthanc.RegisterRestCallback("/probe/get", answer_get)
