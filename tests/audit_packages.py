# SPDX-License-Identifier: AGPL-3.0-or-later
"""Looks for known vulnerabilities of what the scripts and their tests need (`make audit-packages`), by pip-audit.

Fails where one is known. Where the database can't be reached, or does not know a package, it says so and does not fail:
nothing is known then. (An index of one's own, as a company has, gives packages and no vulnerabilities.)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LISTS = [
    ROOT / "requirements.txt",
    *sorted(ROOT.glob("*/requirements.txt")),
]  # each alone: pip-audit follows no `-r` here
AWAY = re.compile(
    "connect|resolve|timed out|no answer|Max retries|HTTPError|ServiceError|[45][0-9]{2} .*Error", re.IGNORECASE
)
SECONDS = 300


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        command += ["--format", "json", "--output", str(report)]
        for path in LISTS:
            command += ["--requirement", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
            errors = done.stderr
        except subprocess.TimeoutExpired:
            errors = f"no answer within {SECONDS} seconds"
        found = json.loads(report.read_text()) if report.exists() else None
    status, lines = verdict(found, errors)
    print("\n".join(lines))
    return status


def verdict(report: dict[str, Any] | None, errors: str) -> tuple[int, list[str]]:
    """Return the exit status and what a person reads, for what pip-audit wrote; None: it wrote no report."""
    if report is None:
        last = next((line for line in reversed(errors.splitlines()) if line.strip()), "pip-audit said nothing")
        if AWAY.search(errors):
            return 0, [f"NOT CHECKED: the database of vulnerabilities can't be reached ({last.strip()[:300]})"]
        return 2, [f"pip-audit could not run: {last.strip()[:300]}"]
    packages = report["dependencies"]
    unknown = [f"{each['name']} ({each['skip_reason']})" for each in packages if "skip_reason" in each]
    bad = [
        f"{each['name']} {each['version']}: {one['id']}, mended in {', '.join(one['fix_versions']) or 'no version'}"
        for each in packages
        for one in each.get("vulns", ())
    ]
    lines = bad or [f"no known vulnerability in {len(packages) - len(unknown)} packages that were checked"]
    if unknown:
        lines.append(f"NOT CHECKED: {len(unknown)} packages: {'; '.join(unknown)}")
    return int(bool(bad)), lines


if __name__ == "__main__":
    sys.exit(main())
