# SPDX-License-Identifier: AGPL-3.0-or-later
"""The error of a destination that is not what it should be."""


class MisconfiguredError(Exception):
    """What answers is not what it should be: nothing may be sent there until somebody has corrected it."""
