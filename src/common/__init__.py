# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pieces that several scripts contain, each written and tested once.

A script must work as the only file in a container: `make build` makes it from its own modules and those that it imports
from here, and `make check` fails when a built file differs. Edit here, never there.
"""
