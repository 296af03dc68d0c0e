# SPDX-License-Identifier: AGPL-3.0-or-later
"""Python packages that a script needs: whether one is missing or too old, and what a person does about it."""

import re


def package_problem(package: str, least: str, found: str | None, debian: str = "") -> str | None:
    """Return what is wrong with an installed package, and the remedy; None if it is there and new enough.

    Parameters
    ----------
    package : its name for pip.
    least : the oldest version that works, as `2.3`.
    found : the version that is installed, None if none is.
    debian : its name for apt, if Debian 12's version is new enough.

    >>> package_problem("httpx", "0.23", "0.28.1") is None
    True
    """
    if found is not None and _numbers(found) >= _numbers(least):
        return None
    state = f"found {found}" if found else "found none"
    by_apt = f"apt install {debian}, or " if debian else ""
    return (
        f"it needs the Python package {package}, {least} or newer ({state}). Install it: {by_apt}a virtual environment "
        'as in docs/install.md, "Packages" (the Dockerfile installs it); then restart Orthanc'
    )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]
