# SPDX-License-Identifier: AGPL-3.0-or-later
"""The rows that say what is sent where: how they are added, and how they end."""

import json
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any

import orthanc

from common.ledger import SEND
from common.owed import place_of
from common.routes import one_line
from common.times import utc
from common.work import Which, Work
from forwarding.context import Context
from forwarding.deletion import Deleter
from forwarding.destinations import Destinations
from forwarding.gone import Gone
from forwarding.metrics import Metrics
from forwarding.tasks import name_of

LONGEST_WAIT_SECONDS = 86400.0  # between two attempts: of what a destination can't take
HISTORY = 10  # failed attempts that a row remembers


class Rows:
    """Adds rows of deliveries, and writes down and logs what became of them."""

    def __init__(self, context: Context, destinations: Destinations, metrics: Metrics, deleter: Deleter | None) -> None:
        self._name, self._retry = context.name, context.settings.retry
        self._ledger, self._work, self._trouble = context.ledger, Work(context.ledger), context.trouble
        self._destinations, self._metrics, self._deleter = destinations, metrics, deleter
        self.gone = Gone(context.name, context.ledger)

    def add(
        self,
        level: str,
        resource: str,
        destination: str,
        instances: Sequence[str] | None,
        priority: int = 0,
        parents: Mapping[str, str] = types.MappingProxyType({}),
        alternates: Sequence[str] = (),
        modify: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a row for a destination, or join one that waits for the same; return its id.

        `None` means all instances that the resource holds when it is sent. `parents` are those that are known, by level,
        `alternates` those of the rule, if it has some, and `modify` what it changes: it is kept as it is now.
        """
        same = Which(task=SEND, resource=resource, queue=destination, states=("waiting",), data={"Level": level})
        waiting = [row for row in self._work.find(same) if _may_join(row, priority, alternates, modify)]
        if not waiting:
            place = place_of(level, resource, parents)
            data: dict[str, Any] = {
                "Level": level,
                **place,
                "Instances": None if instances is None else sorted(instances),
            }
            data |= {"Alternates": [*alternates]} if alternates else {}
            data |= {"Modify": modify} if modify else {}
            return self._ledger.add(destination, resource, data, priority)
        data = json.loads(waiting[-1]["data"])
        data.pop("Sent", None)  # not all of it was
        data.pop("Gone", None)
        both = None if data["Instances"] is None or instances is None else sorted({*data["Instances"], *instances})
        self._work.change(waiting[-1]["id"], data={**data, "Instances": both})
        return int(waiting[-1]["id"])

    def divide(self, row: Mapping[str, Any], *parts: Sequence[str]) -> list[dict[str, Any]]:
        """Leave the first of these instances in a row, give each of the others a row of its own; return all these rows."""
        data = {key: value for key, value in json.loads(row["data"]).items() if key != "Gone"}
        with self._ledger.transaction():
            self._work.change(row["id"], data={**data, "Instances": [*parts[0]]})
            others = [
                self._ledger.add(row["queue"], row["subject"], {**data, "Instances": [*part]}, row["priority"])
                for part in parts[1:]
            ]
        return self._work.find(Which(ids=[row["id"], *others]))

    def end_delivered(self, row: Mapping[str, Any]) -> None:
        """End a row whose destination has it."""
        self._ledger.end(row["id"], "done")
        self._destinations.health_of(row["queue"]).succeeded()
        self._metrics.add_delivered(len(json.loads(row["data"])["Instances"] or (row["subject"],)))
        orthanc.LogInfo(f"{self._name}: {row['queue']} has {name_of(row)} (attempt {row['attempts']})")
        if self._deleter:
            self._deleter.delivered(json.loads(row["data"]).get("Of", row["subject"]))

    def flow(self) -> dict[str, Any]:
        """Return what was delivered since the start, and since when the oldest waits."""
        return self._metrics.flow()

    def end_gone(self, row: Mapping[str, Any]) -> None:
        """End a row that was deleted before it could be sent; one of a whole resource counts as one instance."""
        data = json.loads((self._work.get(row["id"]) or row)["data"])
        with self._ledger.transaction():
            self._ledger.end(row["id"], "gone")
            self.note_gone(row, len(data["Instances"] or (row["subject"],)) - data.get("Gone", 0))

    def leave_out_deleted(self, row: Mapping[str, Any], here: int) -> None:
        """Say that an attempt is without what was deleted: only so many instances of the row are here.

        The row keeps all of them: one that is being overwritten is away for a moment.
        """
        data = json.loads(row["data"])
        gone = len(data["Instances"] or ()) - here
        if (number := gone - data.get("Gone", 0)) <= 0:
            return  # it was said already
        with self._ledger.transaction():
            self._work.change(row["id"], data={**data, "Gone": gone})
            self.note_gone(row, number)

    def note_gone(self, row: Mapping[str, Any], number: int) -> None:
        """Count instances of a row that were deleted before they could be sent, and say so."""
        if number > 0:
            self.gone.note(
                number, f"{number} instances of {name_of(row)} were deleted here before {row['queue']} got them"
            )

    def fail(self, row: Mapping[str, Any], error: str) -> None:
        """Let a row whose attempt has failed wait for the next one, or give it up."""
        data, hours = json.loads(row["data"]), self._retry.give_up_hours
        history = data.get("History", [])
        # What is cut out of a row takes its history along: that failure was logged for the whole.
        is_known = data.get("HistoryOf", row["id"]) != row["id"] and history[-1]["Error"] == one_line(error)
        history = [*history, {"At": utc(), "Error": one_line(error)}][-HISTORY:]
        with self._ledger.transaction():
            self._work.change(row["id"], data={**data, "History": history, "HistoryOf": row["id"]})
            state = self._ledger.fail(row["id"], one_line(error), self._retry)
        where = row["queue"] if row["task"] == SEND else "any destination"
        text = f"{self._name}: {name_of(row)} did not reach {where} (attempt {row['attempts']}): {one_line(error)}"
        self._trouble.note(text)
        if state == "dead":
            again = f"POST /{self._name}/deliveries/{row['id']}/retry tries again"
            orthanc.LogError(f"{text}. Given up after {hours:g} hours; {again}")
        elif row["attempts"] <= 1 and not is_known:
            orthanc.LogWarning(f"{text}. It will be tried again")
        else:
            orthanc.LogInfo(text)

    def fail_rarely(self, row: Mapping[str, Any], instances: Sequence[str], error: str) -> None:
        """Let a row wait for a day whose destination can't take any of its instances; what comes after it does not wait."""
        with self._ledger.transaction():
            self.set_aside(row, instances, error)
            self._work.change(row["id"], next_attempt=time.time() + LONGEST_WAIT_SECONDS)

    def set_aside(self, row: Mapping[str, Any], instances: Sequence[str], error: str) -> None:
        """Let a row fail that holds what can't be sent of a resource: the rest of that does not wait for it."""
        data = json.loads(row["data"])
        whole = {"Of": data.get("Of", row["subject"]), "OfLevel": data.get("OfLevel", data["Level"])}
        alone = {**data, **whole, "Refused": True, "Level": "Instance", "Instances": [*instances]}
        with self._ledger.transaction():
            self._work.change(row["id"], subject=instances[0])
            self.fail({**row, "subject": instances[0], "data": json.dumps(alone)}, error)


def _may_join(
    row: Mapping[str, Any], priority: int, alternates: Sequence[str], modify: Mapping[str, Any] | None
) -> bool:
    """Return whether what is sent with these may join a row; nothing joins one that was moved."""
    data = json.loads(row["data"])
    same_way = (row["priority"], data.get("Alternates", [])) == (priority, [*alternates])
    return same_way and data.get("Modify") == modify and "MovedFrom" not in data
