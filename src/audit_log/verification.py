# SPDX-License-Identifier: AGPL-3.0-or-later
"""Verifies a log: each line must follow the one before, and carry the MAC of both. Runs without Orthanc."""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .lines import Line, log_files, mac_of, parse_line
from .settings import wrong_key


class Verification:
    """Checks a log line by line, oldest first.

    Attributes
    ----------
    problems : what is wrong, each with the file and line.
    number, mac : those of the last line.
    """

    def __init__(self, key: bytes, newest: tuple[int, str] | None) -> None:
        self._key, self._newest = key, newest
        self.problems: list[str] = []
        self.number, self.mac = 0, ""
        self._first, self._dropped_up_to = 0, 0
        self._broken = b""  # the line before, if it was none

    def check_raw(self, where: str, raw: bytes) -> None:
        """Check the bytes of one line."""
        line = parse_line(raw)
        if line is not None:
            self._check(where, line)
            return
        if self._broken:
            self.problems.append(f"{where}: it is no line of the log")
        self._broken = raw

    def _check(self, where: str, line: Line) -> None:
        number = line.content["Number"]
        if self._broken and line.content.get("Broken") != hashlib.sha256(self._broken).hexdigest():
            self.problems.append(f"{where}: the line before it has been changed, or is none of the log")
        self._broken = b""
        self._first = self._first or number
        if not self.number and number > 1:  # files before were dropped: a line further on must say so
            self.number, self.mac = number - 1, str(line.content.get("Previous", ""))
        if number <= self.number:
            self.problems.append(f"{where}: number {number} comes after {self.number}")
        elif number > self.number + 1:
            self.problems.append(f"{where}: {_numbers(self.number + 1, number - 1)} missing")
        elif not hmac.compare_digest(mac_of(self._key, self.mac, line.text), line.mac):
            self.problems.append(f"{where}: number {number} has been changed (or the key is another)")
        if line.content.get("Event") == "dropped":
            self._dropped_up_to = max(self._dropped_up_to, line.content["UpTo"])
        if self._newest and number == self._newest[0] and line.mac != self._newest[1]:
            self.problems.append(f"{where}: number {number} is not the line that was the newest then")
        self.number, self.mac = number, line.mac

    def end(self, last_file: str) -> None:
        """Check what shows only at the end: a cut line, and lines that are missing at the beginning or the end."""
        if self._broken:
            self.problems.append(f"{last_file}: its last line is cut")
        if self._first > self._dropped_up_to + 1:
            self.problems.append(f"{_numbers(self._dropped_up_to + 1, self._first - 1)} missing at the beginning")
        if self._newest and self.number < self._newest[0]:
            self.problems.append(f"{_numbers(self.number + 1, self._newest[0])} missing at the end")


def verify(files: Sequence[Path], key: bytes, newest: tuple[int, str] | None = None) -> tuple[list[str], int, str]:
    """Return what is wrong with a log, and the number and MAC of its last line.

    `newest` is a line that was there, as `GET /audit-log/newest` gave it: without one, a cut end does not show.
    """
    verification = Verification(key, newest)
    for path in files:
        for position, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
            if raw:
                verification.check_raw(f"{path.name}, line {position}", raw)
    verification.end(files[-1].name if files else "")
    return verification.problems, verification.number, verification.mac


def _numbers(first: int, last: int) -> str:
    return f"number {first} is" if first == last else f"numbers {first} to {last} are"


def _parse_newest(text: str) -> tuple[int, str]:
    if not (found := re.fullmatch(r"([0-9]+):([0-9a-f]{64})", text)):
        raise argparse.ArgumentTypeError("it must be NUMBER:MAC, as 12:5f… with 64 digits")
    return int(found[1]), found[2]


def main(words: Sequence[str]) -> int:
    """Run `python3 audit_log.py --verify FOLDER`; return 0 if all is well, 1 if not, 2 if nothing can be verified."""
    parser = argparse.ArgumentParser(  # the built file has the docstring of the script
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--verify", metavar="FOLDER", type=Path, required=True, help="the folder of the log")
    parser.add_argument(
        "--key-file", type=Path, help="the key, as audit_log.key; without: AUDIT_LOG_KEY of the environment"
    )
    parser.add_argument(
        "--newest", metavar="NUMBER:MAC", type=_parse_newest, help="what GET /audit-log/newest gave, once"
    )
    given = parser.parse_args(words)
    try:
        key = given.key_file.read_text().strip() if given.key_file else os.environ.get("AUDIT_LOG_KEY", "")
        files = log_files(given.verify)
        if wrong_key(key) or not files:
            sys.stderr.write(f"no log in {given.verify}\n" if not files else "no key: --key-file or AUDIT_LOG_KEY\n")
            return 2
        problems, number, mac = verify(files, key.encode(), given.newest)
    except (OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"can't be read: {error}\n")
        return 2
    sys.stdout.write("".join(f"{problem}\n" for problem in problems))
    sys.stdout.write(f"{'WRONG' if problems else 'ok'}: {number} lines, the newest is {number}:{mac}\n")
    return 1 if problems else 0
