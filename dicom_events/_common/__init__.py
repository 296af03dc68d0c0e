# SPDX-License-Identifier: AGPL-3.0-or-later
"""What dicom_events shares with other scripts: built by `make build` from src/common/, never edited."""
