# SPDX-License-Identifier: AGPL-3.0-or-later
"""Attempts at rows of work: each is done, fails and is tried again, or is given up."""

import json
import sqlite3
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orthanc

from anonymize_series.settings import NAME
from anonymize_series.tasks import recipe_or_task
from common.ledger import Ledger
from common.loopback import LoopbackError
from common.retry import Retry
from common.routes import one_line
from common.work import Work
from common.worker import Trouble

ROWS_PER_LOOK = 10
Step = Callable[[Mapping[str, Any], dict[str, Any]], None]  # does a row, which it gets with its data


class Stopping(Exception):  # noqa: N818 - it is no fault
    """Orthanc ends: what is under way is done again from its beginning, which changes nothing."""


class NotNow(Exception):  # noqa: N818 - it is no fault
    """It has to wait for something else, with the reason."""


class Impossible(Exception):  # noqa: N818 - it is an answer
    """Trying again changes nothing, with the reason."""


class Attempts:
    """Makes attempts at rows of work until Orthanc ends (`stopping`)."""

    def __init__(self, ledger: Ledger, work: Work, retry: Retry, stopping: threading.Event, trouble: Trouble) -> None:
        self._ledger, self._work, self._retry, self._stopping, self._trouble = ledger, work, retry, stopping, trouble

    def work_off(self, task: str, recipe: str, step: Step) -> None:
        """Do the rows of a task and recipe that are due, one after the other.

        Raises
        ------
        Stopping, sqlite3.Error, OSError, LoopbackError : what was under way is done again later.
        """
        while rows := self._ledger.due(recipe, ROWS_PER_LOOK, self._retry.longest, task):
            for row in rows:
                self.go_on()
                if not self._work.claim(row["id"]):
                    continue  # a person has dropped it while those before it were worked off
                row["attempts"] += 1
                self._attempt(row, step)

    def _attempt(self, row: Mapping[str, Any], step: Step) -> None:
        try:
            step(row, json.loads(row["data"]))
        except Impossible as reason:
            self.fail(row, str(reason), give_up=True)
        except NotNow as reason:
            self.fail(row, str(reason))
        except LoopbackError as error:
            if error.status == 0:
                self._work.wait_again(row["id"])
                raise
            self.fail(row, str(error))
        except (Stopping, sqlite3.Error, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a file that pydicom can't read, a user's matcher
            self.fail(row, f"{type(error).__name__} at {where_raised(error)}")

    def go_on(self) -> None:
        """Raise `Stopping` if Orthanc ends."""
        if self._stopping.is_set():
            raise Stopping

    def fail(self, row: Mapping[str, Any], error: str, *, give_up: bool = False) -> None:
        """Write down that an attempt has failed, and log it the first and the last time."""
        state = self._ledger.fail(row["id"], one_line(error), self._retry, give_up=give_up)
        text = f"{NAME}: {recipe_or_task(row) or 'applying the rules'} failed for {row['subject']}: {one_line(error)}"
        self._trouble.note(text)
        if state == "dead":
            orthanc.LogError(f"{text}. Given up; POST /{NAME}/jobs/{row['id']}/retry tries again")
        elif row["attempts"] <= 1:
            orthanc.LogWarning(f"{text}. It will be tried again")


def where_raised(error: BaseException) -> str:
    """Return where an error was raised: its text may hold a patient's data."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
