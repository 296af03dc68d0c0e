# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a script still has to do with studies, for `POST /NAME/owed`: a purge leaves them alone until then."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from common.changes import Parents, arriving_resources, still_to_read
from common.ledger import Ledger
from common.loopback import Loopback
from common.parameters import Texts, takes
from common.routes import Refused, Request, register_route
from common.work import Which, WorkView

PLACES_PER_LOOKUP = 100
OVERWRITTEN_SECONDS = 0.2  # after which one that was overwritten is here again: Orthanc deletes it for a moment
PARENT_OF = {"Instance": "ParentSeries", "Series": "ParentStudy", "Study": "ParentPatient"}
# Of the rows that are not finished: a row's resource may be a series or an instance, and named are studies. `study` is "" for
# a row about a whole patient, and both are "" until somebody asks (`Owing.find_out`) where `data` does not say it.
# `patients_waited_for` has those of rows that wait or are sent.
_OWED = """
CREATE TABLE IF NOT EXISTS owed(
    row INTEGER NOT NULL, study TEXT NOT NULL, patient TEXT NOT NULL, PRIMARY KEY(row, study)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS owed_by_study ON owed(study);
CREATE INDEX IF NOT EXISTS owed_by_patient ON owed(patient, study);
CREATE TRIGGER IF NOT EXISTS owed_from_the_first AFTER INSERT ON work WHEN {condition} BEGIN
    INSERT INTO owed VALUES(new.id,
        COALESCE(json_extract(new.data, '$.Study'), ''), COALESCE(json_extract(new.data, '$.Patient'), ''))
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER IF NOT EXISTS owed_until_the_end AFTER UPDATE OF state ON work WHEN new.state IN ('done','gone') BEGIN
    DELETE FROM owed WHERE row=new.id;
END;
CREATE TRIGGER IF NOT EXISTS owed_once_more AFTER UPDATE OF state ON work
WHEN old.state IN ('done','gone') AND new.state NOT IN ('done','gone') AND {condition} BEGIN
    INSERT INTO owed VALUES(new.id,
        COALESCE(json_extract(new.data, '$.Study'), ''), COALESCE(json_extract(new.data, '$.Patient'), ''))
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER IF NOT EXISTS owed_no_more AFTER DELETE ON work BEGIN
    DELETE FROM owed WHERE row=old.id;
END;
CREATE VIEW IF NOT EXISTS patients_waited_for AS
    SELECT owed.patient FROM owed JOIN work ON work.id=owed.row WHERE work.state IN ('waiting','sending');
INSERT INTO owed SELECT id, CASE json_extract(data, '$.Level') WHEN 'Study' THEN subject ELSE '' END,
    CASE json_extract(data, '$.Level') WHEN 'Patient' THEN subject ELSE '' END FROM work new
WHERE state IN ('waiting','sending','dead') AND {condition} AND id NOT IN (SELECT row FROM owed);
"""


def owed_tables(but: str = "") -> str:
    """Return the SQL of the table `owed`, for all tasks of a ledger but one."""
    return _OWED.replace("{condition}", f"new.task<>'{but}'")


def place_of(level: str, resource: str, parents: Mapping[str, str]) -> dict[str, str]:
    """Return what the data of a row says of its place: `Study` and `Patient`, as far as they are known."""
    known = {**parents, level: resource}
    return {
        key: known[key] for key in ("Study", "Patient") if key in known and (key == "Patient" or level != "Patient")
    }


def places_of(loopback: Loopback, resources: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return study ("" for a patient) and patient of each resource that is here.

    Raises
    ------
    LoopbackError : Orthanc can't answer now.
    """
    places: dict[str, tuple[str, str]] = {}
    above = {resource: resource for resource in resources}
    for _ in PARENT_OF:
        wanted, found = sorted({*above.values()}), dict[str, Mapping[str, Any]]()
        for start in range(0, len(wanted), PLACES_PER_LOOKUP):
            body = {"Resources": wanted[start : start + PLACES_PER_LOOKUP], "Short": True}
            found |= {each["ID"]: each for each in loopback.post("/tools/bulk-content", body)}
        higher: dict[str, str] = {}
        for resource, name in above.items():
            content = found.get(name, {})
            if content.get("Type") == "Patient":
                places[resource] = "", name
            elif content.get("Type") == "Study":
                places[resource] = name, str(content[PARENT_OF["Study"]])
            elif content:
                higher[resource] = str(content[PARENT_OF[content["Type"]]])
        above = higher
    return places


class Owing:
    """What the unfinished rows of a ledger are about.

    Parameters
    ----------
    resources_of : returns the resources that a row is about.
    """

    def __init__(
        self,
        ledger: Ledger,
        loopback: Loopback,
        resources_of: Callable[[Mapping[str, Any]], Collection[str]] = lambda row: [row["subject"]],
    ) -> None:
        self._ledger, self._work, self._loopback = ledger, WorkView(ledger), loopback
        self._resources_of = resources_of

    def of(self, resources: Collection[str]) -> set[str]:
        """Return which of these studies, and patients as a whole, an unfinished row is about.

        Raises
        ------
        LoopbackError : Orthanc can't answer now what a row is about.
        """
        self.find_out()
        sql = (
            "SELECT study found FROM owed WHERE study IN (SELECT value FROM json_each(?)) "
            "UNION SELECT patient FROM owed WHERE study='' AND patient IN (SELECT value FROM json_each(?))"
        )
        return {row["found"] for row in self._ledger.rows(sql, *[json.dumps([*resources])] * 2)}

    def find_out(self, *, patients: bool = False, at_once: bool = False) -> bool:
        """Ask Orthanc whose the rows are of which that is not known; `patients`: the patient has to be known, too.

        With `at_once` it asks for some of them only. Return whether there are more.
        """
        unknown = "patient=''" if patients else "patient='' AND study=''"
        sql = f"SELECT DISTINCT row FROM owed WHERE {unknown} LIMIT ?"
        while found := [each["row"] for each in self._ledger.rows(sql, PLACES_PER_LOOKUP)]:
            self._find_out(found)
            if at_once:
                return len(found) == PLACES_PER_LOOKUP
        return False

    def _find_out(self, rows: Collection[int]) -> None:
        of_each = {row["id"]: self._resources_of(row) for row in self._work.find(Which(ids=rows))}
        wanted = {each for some in of_each.values() for each in some}
        places = places_of(self._loopback, wanted)
        if missing := wanted - places.keys():
            time.sleep(OVERWRITTEN_SECONDS)
            places |= places_of(self._loopback, missing)
        with self._ledger.transaction() as db:
            # It may have ended meanwhile.
            unfinished = self._work.find(Which(ids=rows, states=("waiting", "sending", "dead")))
            found = {(row["id"], *places[each]) for row in unfinished for each in of_each[row["id"]] if each in places}
            db.executemany("DELETE FROM owed WHERE row=?", [(row,) for row in rows])
            db.executemany("INSERT INTO owed VALUES(?,?,?) ON CONFLICT DO NOTHING", found)


def arriving(ledger: Ledger, loopback: Loopback, parents: Parents, reported: Iterable[str]) -> set[str]:
    """Return the studies, and patients as a whole, of which something has arrived and is not handed over yet.

    `reported` are instances of which OnChange has said that they are new, and that are not read in the log of changes yet.

    Raises
    ------
    Refused : (503) much is still to be read there.
    LoopbackError : Orthanc can't answer now.
    """
    unread = still_to_read(ledger, loopback)  # before what was read: it may be read meanwhile
    if unread is None:
        raise Refused(503, f"{ledger.name} has still to read what arrived")
    found, unknown = set[str](), set[str]()
    new = (("", None, each) for each in unread.union(reported))
    for level, resource, instance in (*arriving_resources(ledger), *new):
        if resource and level in ("Patient", "Study"):
            found.add(resource)
        elif known := parents(instance):
            found.add(known["Study"])
        else:
            unknown.add(resource or instance)
    places = places_of(loopback, unknown) if unknown else {}
    return found | {study or patient for study, patient in places.values()}


def register_owed(
    name: str, owed: Callable[[set[str]], set[str]], unavailable: Callable[[], str | None], *, is_unused: bool = False
) -> None:
    """Register `POST /NAME/owed`, of a script (its name with dashes); one that is unused owes nothing.

    `owed` returns the studies and patients, of those given or any, with which it is not done.
    """

    @takes({"Resources": Texts(allowed="a list of identifiers of Orthanc, at least one")})
    def handler(request: Request) -> dict[str, list[str]]:
        """Return which of these studies it is not done with, and of which patients as a whole: `{"Resources": […]}`."""
        wanted = set(request.parameters.get("Resources", ()))
        if not wanted:
            raise Refused(400, "Resources is missing, allowed: a list of identifiers of Orthanc")
        return {"Owed": [] if is_unused else sorted(wanted & owed(wanted))}

    register_route(f"/{name}/owed", {"POST": handler}, (lambda: None) if is_unused else unavailable)
