# SPDX-License-Identifier: AGPL-3.0-or-later
"""Does in a fresh Debian what the README tells a newcomer, with nothing but a shell: `make fresh-debian SUITES=trixie`.

commands   the README's first commands, `make demo` (which ends after its table) and `make test`
by-hand    the README's commands for one script on Debian, then those of docs/install.md for packages; a study that
           dcmsend sends arrives at another DICOM node

Each is done in a system of its own, by a user who may use sudo, in a clone of what is committed here.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from testing.dicom import make_study
from tests.systems.debian_root import (
    CACHE,
    ROOT,
    JourneyFailedError,
    add_user,
    boot_and_run,
    clone_into,
    make_system,
    needs_root,
)

SUITES = ("bookworm", "trixie")
PACS = '"PACS", "192.168.1.10", 104'
IMAGES = 5


def block(page: str, place: str) -> str:
    """Return the block of shell commands of a page that is marked `<!-- run PLACE -->`."""
    text = (ROOT / page).read_text()
    found = re.findall(rf"<!-- run {re.escape(place)} -->\n```sh\n(.*?)```", text, re.S)
    if len(found) != 1:
        raise JourneyFailedError(f"{page} has {len(found)} blocks of commands for {place}")
    return str(found[0])


def commands(system: Path, options: argparse.Namespace) -> None:
    """Run the README's first commands."""
    told = [line.split("#")[0].strip() for line in block("README.md", "on a fresh Debian, in the clone").splitlines()]
    if told != ["make demo", "make test"]:
        raise JourneyFailedError(f"README.md has other commands than this program knows: {told}")
    script = [block("README.md", "on a fresh Debian"), "cd orthanc-scripts", "make demo DEMO_ARGS=--exit"]
    if not options.demo_only:
        script.append(f"make test TEST_ARGS={shlex.quote(options.test_args)}")
    boot_and_run(system, "\n".join(["set -x", *script]), timeout=3 * 3600)


def by_hand(system: Path, _options: argparse.Namespace) -> None:
    """Run the README's commands for one script, and send a study."""
    study = system / "journey/study"
    study.mkdir(parents=True)
    for number, data in enumerate(make_study(instances=IMAGES)):
        (study / f"{number}.dcm").write_bytes(data)
    told = block("README.md", "on Debian")
    if PACS not in told:
        raise JourneyFailedError(f"README.md has another node than {PACS}")
    script = f"""
cd orthanc-scripts
set -x
{block("README.md", "on Debian, before")}
{told.replace(PACS, '"STORESCP", "127.0.0.1", 11104')}
sleep 5
{block("README.md", "on Debian, afterwards")}
systemctl is-active orthanc
: A node that receives, and a modality that sends.
sudo apt install dcmtk
mkdir ~/received
storescp -aet STORESCP -od ~/received 11104 &
dcmsend -aet MODALITY -aec ORTHANC 127.0.0.1 4242 /journey/study/*.dcm
for second in $(seq 120); do [ $(ls ~/received | wc -l) = {IMAGES} ] && break; sleep 1; done
ls ~/received
[ $(ls ~/received | wc -l) = {IMAGES} ]
{block("docs/install.md", "on Debian")}
sleep 5
systemctl is-active orthanc
tr '\\0' '\\n' </proc/$(systemctl show --property MainPID --value orthanc)/environ | grep PYTHONPATH || \
  sudo sh -c 'tr "\\0" "\\n" </proc/$(systemctl show --property MainPID --value orthanc)/environ' | grep PYTHONPATH
curl -s http://127.0.0.1:8042/auto-forward-modality/status
"""
    output = boot_and_run(system, script, timeout=1800)
    if output.count('"State": "running"') != 2:
        raise JourneyFailedError("the script does not say that it runs, before and after the packages")


JOURNEYS = {"commands": commands, "by-hand": by_hand}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make fresh-debian", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("suites", nargs="*", default=SUITES, help=f"default: {' '.join(SUITES)}")
    parser.add_argument("--journey", choices=[*JOURNEYS], action="append", help="default: both")
    parser.add_argument("--test-args", default="", help="TEST_ARGS of make test, such as -k purge")
    parser.add_argument("--demo-only", action="store_true", help="without make test")
    parser.add_argument("--keep", action="store_true", help="keep the system of a journey that failed")
    options = parser.parse_args()
    needs_root("fresh_debian")
    CACHE.mkdir(parents=True, exist_ok=True)
    results = {}
    for suite in options.suites:
        for name in options.journey or JOURNEYS:
            print(f"\n=== Debian {suite}, {name}", flush=True)
            work = Path(tempfile.mkdtemp(dir=CACHE, prefix=f"{suite}-{name}-"))
            try:
                system = make_system(suite, work / "system")
                add_user(system)
                clone_into(system)
                JOURNEYS[name](system, options)
                results[suite, name] = "passed"
            except JourneyFailedError as error:
                results[suite, name] = f"FAILED: {error}"
            if results[suite, name] == "passed" or not options.keep:
                shutil.rmtree(work)
    print()
    for (suite, name), result in results.items():
        print(f"{suite:10} {name:10} {result}")
    return 0 if set(results.values()) == {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main())
