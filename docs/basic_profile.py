# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables of docs/basic_profile.md: what PS3.15 Table E.1-1 asks of each attribute, and what a copy has of it. cog runs it."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.datadict import dictionary_description, dictionary_VR, keyword_for_tag


# What pydicom 3.0 does not know yet.
NAMES = {
    0x00081301: "Principal Diagnosis Code Sequence",
    0x00081302: "Primary Diagnosis Code Sequence",
    0x00081303: "Secondary Diagnoses Code Sequence",
    0x00081304: "Histological Diagnoses Code Sequence",
    0x00100011: "Person Names to Use Sequence",
    0x00100012: "Name to Use",
    0x00100013: "Name to Use Comment",
    0x00100014: "Third Person Pronouns Sequence",
    0x00100015: "Pronoun Code Sequence",
    0x00100016: "Pronoun Comment",
    0x00100041: "Gender Identity Sequence",
    0x00100042: "Sex Parameters for Clinical Use Category Comment",
    0x00100043: "Sex Parameters for Clinical Use Category Sequence",
    0x00100044: "Gender Identity Code Sequence",
    0x00100045: "Gender Identity Comment",
    0x00100046: "Sex Parameters for Clinical Use Category Code Sequence",
    0x00100047: "Sex Parameters for Clinical Use Category Reference",
    0x00102162: "Ethnic Groups",
    0x0040A034: "Effective Start DateTime",
    0x0040A035: "Effective Stop DateTime",
    0x0040B034: "Annotation DateTime",
    0x0040B036: "Segment Definition DateTime",
    0x0040B03B: "Montage Name",
    0x0040B03F: "Montage Channel Label",
    0x0040E012: "Display URI",
}
