# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section `AnonymizeSeries` of the configuration."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pydicom
import pydicom.datadict

from common.retry import Retry
from common.settings import durability_field, reconcile_field, state_path_field
from forwarding.rules import Origin, Rule, wrong_with

SECTION = "AnonymizeSeries"
NAME = "anonymize-series"
MIN_SECRET_CHARACTERS = 32
RE_IDENTIFY_NAME = "(re-identify)"  # where a recipe would be named: no recipe can be called so


def wrong_secret(secret: str | None) -> str | None:
    """Return what is allowed, if this is no secret."""
    allowed = f"at least {MIN_SECRET_CHARACTERS} characters"
    return None if secret is None or len(secret) >= MIN_SECRET_CHARACTERS else allowed


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How something is de-identified, and where the copy is sent."""

    keep: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "Tags that stay, by keyword or `gggg,eeee`; they are not looked at afterwards."}
    )
    replace: dict[str, str] = dataclasses.field(default_factory=dict, metadata={"help": "Tags that get another value."})
    remove: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"help": "Tags that are removed, besides those of the profile."}
    )
    keep_private_tags: bool = dataclasses.field(
        default=False, metadata={"help": "Private tags stay, where the analysis needs them. They may hold names."}
    )
    dicom_version: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": (
                "Edition of DICOM PS3.15 whose profile Orthanc applies (`2021b`, …), if a protocol names one; "
                "null: its newest."
            )
        },
    )
    allow_burned_in: bool = dataclasses.field(
        default=False, metadata={"help": "Also images that may show names or faces in their pixels."}
    )
    allow_non_images: bool = dataclasses.field(
        default=False,
        metadata={"help": "Also what has no pixels: reports, documents, plans. It may hold names as text."},
    )
    modality: str | None = dataclasses.field(default=None, metadata={"help": "The copy is sent to this DICOM node."})
    peer: str | None = dataclasses.field(default=None, metadata={"help": "The copy is sent to this Orthanc."})
    stow: str | None = dataclasses.field(
        default=None, metadata={"help": "The copy is sent to this server of the DICOMweb plugin."}
    )
    whole: bool = dataclasses.field(
        default=False,
        metadata={"help": "Where one image of a series (or study) is held back, make no copy of the others either."},
    )
    delete_copy: bool = dataclasses.field(
        default=False, metadata={"help": "Delete the copy when it has arrived there."}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AnonymizeSeries`."""

    secret: str | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "check": wrong_secret,
            "help": (
                "Text of at least 32 characters, from which UIDs and pseudonyms are made. Keep it: another one "
                "makes others."
            ),
        },
    )
    recipes: dict[str, Recipe] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "How something is de-identified and where the copy is sent, by name (below)."},
    )
    rules: tuple[Rule, ...] = dataclasses.field(
        default=(), metadata={"help": "What is de-identified by itself; `Destinations` are names of recipes."}
    )
    rule_mode: str = dataclasses.field(
        default="first",
        metadata={
            "choices": ("first", "all"),
            "help": "`first`: the first rule that matches decides. `all`: each rule that matches makes its copies.",
        },
    )
    pseudonym_prefix: str = dataclasses.field(
        default="ANON-", metadata={"help": "What PatientID and PatientName of copies begin with."}
    )
    re_identify: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "Allow results to be taken back into the original study, and the register to be read over HTTP."
        },
    )
    results: Origin | None = dataclasses.field(
        default=None,
        metadata={
            "help": (
                'Where results come from that are taken back by themselves: `{"RemoteAET": ["AI"]}`; null: from '
                "nowhere."
            )
        },
    )
    delete_results: bool = dataclasses.field(
        default=False, metadata={"help": "Delete a result as it came in, when it has been put into the original study."}
    )
    retry: Retry = dataclasses.field(default=Retry(), metadata={"help": "For how long what failed is tried again."})
    reconcile: bool = reconcile_field()
    durability: str = durability_field("the register survives")
    state_path: str | None = state_path_field("the register")
    keep_done_days: float = dataclasses.field(
        default=30, metadata={"minimum": 0, "help": "Days that finished work stays in the list."}
    )


def wrong_with_settings(settings: Settings, configuration: Mapping[str, Any]) -> str | None:
    """Return what is wrong beyond types, by its key; None if all is well."""
    extra = [tag for tags in (configuration.get("ExtraMainDicomTags") or {}).values() for tag in tags]
    for number, rule in enumerate(settings.rules):
        if complaint := _wrong_with_rule(f"Rules[{number}]", rule, extra, settings.recipes):
            return complaint
    for name, recipe in settings.recipes.items():
        if complaint := _wrong_with_recipe(name, recipe):
            return complaint
    if settings.results == Origin():
        return "Results: found no condition, allowed: at least one (RemoteAET, CalledAET, RemoteIP, Method, User)"
    if settings.results is not None and not settings.re_identify:
        return 'ReIdentify: found false, allowed: true, with "Results"'
    return None


def _wrong_with_rule(path: str, rule: Rule, extra_tags: Iterable[str], recipes: Mapping[str, Recipe]) -> str | None:
    if complaint := wrong_with(rule, extra_tags):
        return f"{path}.{complaint}"
    if rule.level == "Patient":
        return f'{path}.Level: found "Patient", allowed: "Study", "Series"'
    if unknown := [name for name in rule.destinations or () if name not in recipes]:
        return f"{path}.Destinations: found {json.dumps(unknown[0])}, allowed: {names_of(recipes)}"
    return None if recipes else f"Recipes: found none, allowed: at least one, for {path}"


def _wrong_with_recipe(name: str, recipe: Recipe) -> str | None:
    if not name or name == RE_IDENTIFY_NAME:
        return f"Recipes: found {json.dumps(name)}, allowed: another name"
    if len(places := [each for each in (recipe.modality, recipe.peer, recipe.stow) if each is not None]) > 1:
        return f"Recipes.{name}: found {' and '.join(places)}, allowed: one of Modality, Peer, Stow"
    if recipe.delete_copy and not places:
        return f"Recipes.{name}.DeleteCopy: found true, allowed: only with Modality, Peer or Stow"
    return _wrong_with_tags(f"Recipes.{name}", recipe)


def _wrong_with_tags(path: str, recipe: Recipe) -> str | None:
    for key, tags in (("Keep", recipe.keep), ("Remove", recipe.remove), ("Replace", recipe.replace)):
        if wrong := [tag for tag in tags if tag_number(tag) is None]:
            return f"{path}.{key}: found {json.dumps(wrong[0])}, allowed: DICOM keywords, or gggg,eeee"
    if wrong := [tag for tag, value in recipe.replace.items() if not isinstance(value, str)]:
        return f"{path}.Replace.{wrong[0]}: found {json.dumps(recipe.replace[wrong[0]])}, allowed: a text"
    tags = (*recipe.keep, *recipe.replace)
    if made_here := [tag for tag in tags if tag in ("PatientID", "PatientName") or _is_uid(tag)]:
        return f"{path}: found {made_here[0]}, allowed: no UID, no PatientID, no PatientName: the script makes them"
    return None


def names_of(recipes: Iterable[str]) -> str:
    """Return the names of recipes, as an error lists them."""
    return ", ".join(map(json.dumps, recipes)) or "none, for there are no Recipes"


def tag_number(text: str) -> int | None:
    """Return the number of a tag by its keyword, or as gggg,eeee; None if it is none."""
    if found := re.fullmatch("([0-9A-Fa-f]{4})[,-]?([0-9A-Fa-f]{4})", text):
        return int(found[1] + found[2], 16)
    number = pydicom.datadict.tag_for_keyword(text) if pydicom else 0
    return None if number is None else int(number)


def _is_uid(tag: str) -> bool:
    number = tag_number(tag)
    with contextlib.suppress(KeyError):
        return bool(pydicom and number and pydicom.datadict.dictionary_VR(number) == "UI")
    return False
