# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hands what Orthanc calls to each script that asked for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from combine.runtime.log import Log
from combine.runtime.script import Callback

STOP_SECONDS = 5.0  # how long a script may keep Orthanc from stopping, as it is said in docs/combine.md


class Changes:
    """OnChange for all scripts, on the plugin's thread, as alone.

    Only ORTHANC_STOPPED comes on a thread of its own for each script, so that one that hangs can be left.
    """

    def __init__(self, stopped: int, log: Log) -> None:
        self.stopped, self.log = stopped, log
        self.callbacks: tuple[Callback, ...] = ()

    def __call__(self, *event: Any) -> None:
        for callback in self.callbacks:
            if event[0] == self.stopped:
                self.stop(callback, event)
            else:
                self.log.guard(callback, *event)

    def stop(self, callback: Callback, event: tuple[Any, ...]) -> None:
        thread = threading.Thread(target=self.log.guard, args=(callback, *event), name="OnChange", daemon=True)
        thread.start()
        thread.join(STOP_SECONDS)
        if thread.is_alive():
            self.log.write(
                "Error", f"Left {callback.script.module} in its OnChange after {STOP_SECONDS:g} s: Orthanc stops"
            )


class Dispatcher:
    """The callbacks that Orthanc grants once, shared out to the scripts that asked for them."""

    def __init__(self, real: Any, functions: Mapping[str, Any], log: Log) -> None:
        self.real, self.functions, self.log = real, functions, log
        self.shared: dict[str, tuple[Callback, ...]] = {}
        # The plugin lets go of callables without holding the GIL when it ends: the last reference must be here.
        self.kept: list[Any] = []
        self.changes = Changes(real.ChangeType.ORTHANC_STOPPED, log)

    def share(self, name: str, callback: Callback) -> None:
        """Add `callback` to those of its kind; Orthanc is asked for the kind when the first script wants it."""
        if name not in self.shared:
            function = {
                "RegisterOnChangeCallback": self.changes,
                "RegisterOnStoredInstanceCallback": self.on_stored_instance,
                "RegisterIncomingHttpRequestFilter": self.filter_request,
                "RegisterIncomingCStoreInstanceFilter": self.filter_instance,
                "RegisterReceivedInstanceCallback": self.on_received_instance,
            }[name]
            self.kept.append(function)
            self.functions[name](function)
        self.shared[name] = (*self.shared.get(name, ()), callback)
        self.changes.callbacks = self.shared.get("RegisterOnChangeCallback", ())

    def on_stored_instance(self, dicom: Any, instance: str) -> None:
        for callback in self.shared["RegisterOnStoredInstanceCallback"]:
            self.log.guard(callback, dicom, instance)

    def filter_request(self, uri: str, **request: Any) -> Any:
        """Ask every filter, as each alone would be; the first answer that does not allow is Orthanc's."""
        callbacks = self.shared["RegisterIncomingHttpRequestFilter"]

        def ask(callback: Callback) -> Any:
            return callback(uri, **{k: dict(v) if isinstance(v, dict) else v for k, v in request.items()})

        return self.first_refusal(callbacks, ask, lambda answer: answer is True)

    def filter_instance(self, dicom: Any) -> Any:
        """Ask every filter, as each alone would be; the first status that refuses is the sender's."""
        callbacks = self.shared["RegisterIncomingCStoreInstanceFilter"]
        return self.first_refusal(
            callbacks, lambda callback: callback(dicom), lambda answer: isinstance(answer, int) and answer == 0
        )

    def first_refusal(
        self, callbacks: Iterable[Callback], ask: Callable[[Callback], Any], allows: Callable[[Any], bool]
    ) -> Any:
        verdict: Any = None
        refused = False
        failure: BaseException | None = None
        for callback in callbacks:
            try:
                answer = ask(callback)
            except BaseException as error:  # noqa: BLE001 (who fails refuses, as alone)
                if refused:
                    self.log.report(callback, error)
                failure = failure or (None if refused else error)
                refused = True
            else:
                if not refused:
                    verdict, refused = answer, not allows(answer)
        if failure:
            raise failure
        return verdict

    def on_received_instance(self, dicom: bytes, origin: int) -> tuple[int, bytes | None]:
        """Hand on from script to script what the one before made of the instance; who discards it ends the chain."""
        action = self.real.ReceivedInstanceAction
        result: tuple[int, bytes | None] = (action.KEEP_AS_IS, None)
        for callback in self.shared["RegisterReceivedInstanceCallback"]:
            try:
                answer = callback(dicom, origin)
                if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], int):
                    raise TypeError("the callback must return an action and the DICOM file that it made, as a tuple")
                if answer[0] == action.DISCARD:
                    return answer[0], None
                if answer[0] != action.KEEP_AS_IS:
                    if not isinstance(answer[1], bytes):
                        raise TypeError(f"the DICOM file must be bytes, not {type(answer[1]).__name__}")
                    dicom, result = answer[1], answer
            except BaseException as error:  # noqa: BLE001 (kept as it is, as alone)
                self.log.report(callback, error)
        return result
