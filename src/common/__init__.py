# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pieces that several scripts contain, each written and tested once.

A script must stand alone as the only file in the container, so it does not import from here: `make sync` copies the
text of the pieces it names into the block at its end, and `make check` fails when a copy differs. Edit here, never there.
"""
