# SPDX-License-Identifier: AGPL-3.0-or-later
"""The fixtures come from `testing.pytest_plugin` (pyproject.toml), as they would for a user's own tests."""
