# SPDX-License-Identifier: AGPL-3.0-or-later
"""All scripts in one file, and a browser, for the tests of dashboard.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Browser, Page, expect, sync_playwright

from testing.demo import scripts
from testing.server import OrthancServer

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "dashboard"
AWAY_NAME = "RESEARCH"
SECRET = "0123456789abcdef" * 2
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]  # fmt: skip
# Sections without which a script has nothing to do.
SECTIONS: dict[str, Any] = {
    "AuditLog": {"Key": SECRET},
    "PurgeOldStudies": {"KeepReceivedDays": 0, "Rules": [{"Name": "seven years", "OlderThan": "7y", "At": "02:30"}]},
    "SeriesMainPrivateDicomTags": ["0009,1001:MINE"],
    "AnonymizeSeries": {"Secret": SECRET, "Recipes": {"research": {}}},
}


class Pair(NamedTuple):
    """The Orthanc with all scripts, and its destinations: one that works, one that is not started."""

    main: OrthancServer
    works: OrthancServer
    dead: OrthancServer


def combine(target: Path, *paths: Path) -> Path:
    """One script of these in a file; of all, if none is named."""
    chosen = map(str, paths or scripts())
    subprocess.run([sys.executable, str(ROOT / "combine.py"), *chosen, "-o", str(target)], check=True)
    return target


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield browser
        browser.close()


class Watched:
    """A page, and what went wrong in it: errors of its code, and what its policy blocked."""

    def __init__(self, browser: Browser, **context: Any) -> None:
        self.page: Page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context}).new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self._note(line.type, line.text))

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and "Failed to load resource" not in text:
            self.errors.append(text)

    def open(self, url: str, panel: str = "") -> Page:
        """Open a panel, and wait until it shows what the summary says."""
        self.page.goto(f"{url}/dashboard#/{panel}")
        self.page.wait_for_selector("main h1")
        self.page.wait_for_selector("main .loading", state="detached")
        return self.page

    def answer(self, button: str, came: str) -> None:
        """Press a button of the dialog, and close it when it says what came of it."""
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("button", name=button, exact=True).click()
        expect(dialog).to_contain_text(came)
        dialog.get_by_role("button", name="Close").click()
