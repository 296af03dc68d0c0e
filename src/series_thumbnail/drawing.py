# SPDX-License-Identifier: AGPL-3.0-or-later
"""Draws pictures with few threads, each picture once, however many ask for it."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import queue
import threading
import time

from common.routes import Refused

from .archive import Archive
from .background import Background
from .cache import Cache
from .chooser import Chooser
from .options import RenderOptions
from .pictures import Picture

PICTURE_TIMEOUT_SECONDS = 60.0  # that a request waits for its picture
STOPS_WITHIN_SECONDS = 2.0  # that the end of Orthanc waits for the threads
MAX_WAITING_TO_BE_KEPT = 10_000  # pictures that wait to be written, at most


@dataclasses.dataclass(eq=False)
class Task:
    """A picture that somebody waits for. `spoiled`: its resource has changed meanwhile."""

    level: str
    resource: str
    options: RenderOptions
    future: concurrent.futures.Future[Picture] = dataclasses.field(default_factory=concurrent.futures.Future)
    spoiled: bool = False


class DrawingPool:
    """Gives pictures from memory, lets its threads draw the others, and keeps those of series in the background.

    Parameters
    ----------
    threads : that draw at a time for those who ask.
    max_waiting : requests that may wait for a picture: each holds one of Orthanc's HTTP threads, and to draw takes others.
    """

    def __init__(self, chooser: Chooser, cache: Cache, archive: Archive, threads: int, max_waiting: int) -> None:
        self._chooser, self._cache, self._archive, self._max_waiting = chooser, cache, archive, max_waiting
        self._asked: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._tasks: dict[tuple[str, RenderOptions], Task] = {}
        self._changed: set[str] = set()  # series whose kept picture may be of another day
        self._lock = threading.Lock()
        self.waiting = 0
        self._nobody_waits = threading.Event()
        self._nobody_waits.set()
        self.background = Background(self._draw_ahead, chooser.keep, self._nobody_waits)
        self._threads = [
            threading.Thread(target=self._draw, name=f"series-thumbnail-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in (*self._threads, self.background.thread):
            thread.start()

    def stop(self) -> None:
        """End the threads after what is under way; leave those behind that take long."""
        for _ in self._threads:
            self._asked.put(None)
        self.background.end()
        deadline = time.monotonic() + STOPS_WITHIN_SECONDS
        for thread in (*self._threads, self.background.thread):
            thread.join(max(0, deadline - time.monotonic()))

    def forget(self, resource: str, has_grown: bool) -> None:
        """Forget the pictures of a resource that has changed or is gone; `has_grown`: the middle may be another now."""
        with self._lock:
            if has_grown:
                self._changed.add(resource)
            else:
                self._changed.discard(resource)
            for task in self._tasks.values():
                task.spoiled = task.spoiled or task.resource == resource
        self._cache.drop(resource)

    def accept_kept(self, series: str) -> None:
        """Take the kept picture of a series for right, although the series has grown: it is checked when it is used."""
        self._changed.discard(series)

    def get(self, level: str, resource: str, options: RenderOptions) -> Picture:
        """Return a picture, drawn if need be. Raises `Refused`, TimeoutError, and LoopbackError of whatever drew it."""
        with self._lock:
            if self.waiting >= self._max_waiting:
                raise Refused(503, "Too many pictures are waited for; try again in a second")
            self.waiting += 1
            self._nobody_waits.clear()
        try:
            task, is_new = self._task(level, resource, options)
            if is_new:
                self._asked.put(task)
            return task.future.result(PICTURE_TIMEOUT_SECONDS)
        finally:
            with self._lock:
                self.waiting -= 1
                if not self.waiting:
                    self._nobody_waits.set()

    # Threads

    def _draw(self) -> None:
        while task := self._asked.get():
            self._run(task)

    def _draw_ahead(self, series: str) -> None:
        task, is_new = self._task("series", series, self._chooser.kept_options)
        if is_new:  # else somebody has asked for it
            self._run(task)
            task.future.result()

    def _task(self, level: str, resource: str, options: RenderOptions) -> tuple[Task, bool]:
        """Return the task for a picture, and whether there was none: then it is the caller's to run it."""
        with self._lock:
            if (resource, options) in self._tasks:
                return self._tasks[resource, options], False
            task = self._tasks[resource, options] = Task(level, resource, options)
            return task, True

    def _run(self, task: Task) -> None:
        try:
            picture = self._obtain(task)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            with self._lock:
                del self._tasks[task.resource, task.options]
            task.future.set_exception(error)
        else:
            with self._lock:
                del self._tasks[task.resource, task.options]
                if not task.spoiled:
                    self._cache.put(task.resource, task.options, picture)
            task.future.set_result(picture)

    def _obtain(self, task: Task) -> Picture:
        """Return the picture in memory, if its resource is as it was; else draw one."""
        picture, begun = self._cache.get(task.resource, task.options), time.monotonic()
        # What is drawn now may name any earlier state: if that is still so then, nothing has changed since.
        state = self._archive.get_state() if picture else self._archive.state
        if picture is not None:
            if picture.archive is state:
                return picture
            count = self._chooser.count(task.level, task.resource)
            if picture.count in (None, count):
                picture.count, picture.checked, picture.archive = count, begun, state
                return picture
            self._cache.drop(task.resource)
            if task.level == "series":
                self._changed.add(task.resource)
        if task.level == "series":
            picture = self._series(task)
        elif task.level == "studies":
            picture = self._chooser.study(task.resource, task.options, self._series_of_study)
        else:
            picture = self._chooser.instance(task.resource, task.options)
        picture.checked, picture.archive = begun, state
        return picture

    def _series(self, task: Task) -> Picture:
        has_grown, is_kept_size = task.resource in self._changed, task.options == self._chooser.kept_options
        picture = self._chooser.series(task.resource, task.options, has_grown)
        if not task.spoiled and is_kept_size:
            if has_grown:
                self._changed.discard(task.resource)
            if not picture.is_kept and len(self.background) < MAX_WAITING_TO_BE_KEPT:
                self.background.add(task.resource, picture)
        return picture

    def _series_of_study(self, series: str, options: RenderOptions) -> Picture:
        task, is_new = self._task("series", series, options)
        if is_new:
            self._run(task)
            return task.future.result()
        # Another thread draws it, or will: never wait here for one that may wait for this.
        return self._obtain(Task("series", series, options, spoiled=True))
