# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checks Orthanc's configuration against what the scripts read."""

from __future__ import annotations

import ast
import difflib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from combine.sources import MARK, CombineError, Source, read
from combine.texts import assigned, constant
from common.environment import FromEnvironment, as_written, marked

PRIVATE_TAGS = "SeriesMainPrivateDicomTags"
JSON_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "None": (type(None),),
    "list": (list,),
    "tuple": (list,),
    "dict": (dict,),
}


CONFIGURATION_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def read_configuration(path: Path) -> dict[str, Any]:
    """Read Orthanc's configuration as Orthanc does: comments, ${VARIABLES}, and folders of files."""
    whole: dict[str, Any] = {}
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        text = re.sub(
            CONFIGURATION_TOKEN,
            lambda m: m[0] if m[0][0] == '"' else blank(m),
            read(file).decode("utf-8-sig", "replace"),
        )
        try:
            part = json.loads(re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", variable, text))
            part = marked(part, as_written(text))
        except json.JSONDecodeError as error:
            raise CombineError(f"{file}, line {error.lineno}: {error.msg}") from None
        for key, value in part.items() if isinstance(part, dict) else ():
            if key in whole:
                raise CombineError(f"{file}: {key} stands in another file of {path} too, which Orthanc refuses")
            whole[key] = value
    return whole


def blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def variable(match: re.Match[str]) -> str:
    return os.environ.get(match[1], match[2] or "")


def check_configuration(path: Path, sources: list[Source], output: Path | None) -> Iterator[str]:
    """Say what is wrong or missing in a configuration, with the line to add; `output` is the combined file, if one is made."""
    configuration = read_configuration(path)
    python = configuration.get("Python")
    script = configuration.get("PythonScript", python.get("Path") if isinstance(python, dict) else None)
    if not isinstance(script, str) or not script.lower().endswith(".py"):
        yield 'PythonScript is missing; add: "PythonScript": "/etc/orthanc/scripts/combined.py"'
    else:
        yield from check_script(path, script, sources, output)
    yield from check_metadata(configuration.get("UserMetadata", {}), sources)
    yield from check_section_of_all(configuration, sources)
    for source in sources:
        classes = classes_of(source)
        for tree in source.trees.values():
            section = constant(assigned(tree).get("SECTION", tree), {})
            yield from check_section_name(configuration, section)
            if section in configuration and section != PRIVATE_TAGS and "Settings" in classes:
                yield from check_object(section, configuration[section], classes["Settings"], classes)
            if any(isinstance(node, ast.Constant) and node.value == PRIVATE_TAGS for node in ast.walk(tree)):
                yield from check_dictionary(configuration)


def classes_of(source: Source) -> dict[str, ast.ClassDef]:
    """Return the classes of a script, by name."""
    return {node.name: node for tree in source.trees.values() for node in tree.body if isinstance(node, ast.ClassDef)}


def check_section_name(configuration: Mapping[str, Any], section: str | None) -> Iterator[str]:
    for other in configuration if section else ():
        if other != section and difflib.SequenceMatcher(None, other.lower(), str(section).lower()).ratio() > 0.85:
            yield f"{other} is no section; did you mean {section}?"


def check_section_of_all(configuration: Mapping[str, Any], sources: list[Source]) -> Iterator[str]:
    """Check the section `Scripts` once, if one of ours is there, which all read it (`src/common/settings.py`)."""
    for classes in map(classes_of, sources):
        if "ScriptsSettings" in classes:
            yield from check_section_name(configuration, "Scripts")
            found = configuration.get("Scripts", {})
            yield from check_object("Scripts", found, classes["ScriptsSettings"], classes)
            return


def check_script(path: Path, script: str, sources: list[Source], output: Path | None) -> Iterator[str]:
    """Check that Orthanc loads the combined file. The configuration may be another machine's: only names can be compared then."""
    found = Path(script)
    here = (path if path.is_dir() else path.parent) / found  # an absolute one is itself
    if output and (found.name != output.name or (here.exists() and here.resolve() != output.resolve())):
        yield f"PythonScript is {script}, not {output}"
    elif not output and len(sources) > 1 and here.is_file() and not read(here).startswith(MARK.encode()):
        yield f"PythonScript is {script}, which is no combined file"


def check_metadata(metadata: Any, sources: list[Source]) -> Iterator[str]:
    """Check numbers of UserMetadata, and that the names are there which a script lists in USER_METADATA."""
    if not isinstance(metadata, dict):
        yield "UserMetadata must be an object of names and numbers"
        return
    names: dict[int, str] = {}
    for name, number in metadata.items():
        value = number[0] if isinstance(number, list) and number else number  # [number, MIME type]
        if type(value) is not int or not 1024 <= value <= 65535:
            yield f"UserMetadata: {name} must be a number from 1024 to 65535"
        elif value in names:
            yield f"UserMetadata: {name} and {names[value]} have the number {value} both"
        else:
            names[value] = name
    for source in sources:
        for name, number in (one for tree in source.trees.values() for one in wanted_metadata(tree)):
            if name not in metadata:
                free = next(n for n in itertools.count(number) if n not in names)
                names[free] = name
                yield f'{source.main} wants a name in UserMetadata; add: "UserMetadata": {{"{name}": {free}}}'


def wanted_metadata(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Find the names of UserMetadata that a script asks for by `user_number(configuration, "UserMetadata", name, number)`."""
    names = assigned(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "user_number" and len(node.args) == 4:
            section, name = (constant(argument, names) for argument in node.args[1:3])
            number = names.get(ast.unparse(node.args[3]), node.args[3])
            if section == "UserMetadata" and name and isinstance(number, ast.Constant) and type(number.value) is int:
                yield name, number.value


def check_dictionary(configuration: dict[str, Any]) -> Iterator[str]:
    """Check that private tags which are listed by name have an entry in Dictionary, which gives their number and VR."""
    entries, listed = configuration.get("Dictionary", {}), configuration.get(PRIVATE_TAGS, [])
    known = [entry[1:2] for entry in entries.values() if isinstance(entry, list)] if isinstance(entries, dict) else []
    for name in listed if isinstance(listed, list) else []:
        name = str(name).removeprefix("!!")
        if not re.match("[0-9a-fA-F]{4}[,-]?[0-9a-fA-F]{4}", name) and [name] not in known:
            line = f'"Dictionary": {{"gggg,eeee": ["LO", "{name}", 1, 1, "CREATOR"]}}'
            yield f"{PRIVATE_TAGS}: {name} is not in Dictionary; add: {line}"


def check_object(path: str, found: Any, wanted: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """Check an object of the configuration against a dataclass: the keys it has, and the plainest of their types."""
    if not isinstance(found, dict):
        yield f"{path} must be an object of keys and values"
        return
    fields, removed = fields_of(wanted, classes), removed_keys(wanted, classes)
    for key, value in found.items():
        if key in removed:
            yield f"{path}.{key} is gone: {removed[key]}"
        elif key not in fields:
            near = difflib.get_close_matches(key.lower(), [name.lower() for name in fields], 1, 0.6)
            meant = [f"did you mean {name}?" for name in fields if [name.lower()] == near]
            yield f"{path} has no key {key}; " + (meant[0] if meant else f"known are {', '.join(fields)}")
        else:
            yield from check_value(f"{path}.{key}", value, fields[key], classes)


def lineage(wanted: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    """Yield the classes that a class is made from, and then itself."""
    for base in wanted.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from lineage(classes[base.id], classes)
    yield wanted


def fields_of(wanted: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> dict[str, ast.expr]:
    """Return the keys of a dataclass with their annotations."""
    nodes = [node for each in lineage(wanted, classes) for node in each.body if isinstance(node, ast.AnnAssign)]
    return {key_of(node): node.annotation for node in nodes if not ast.unparse(node.annotation).startswith("ClassVar")}


def removed_keys(wanted: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> dict[str, str]:
    """Return the keys that a dataclass had once, each with what happens now: a class variable `REMOVED`, an object of texts."""
    found = [assigned(each).get("REMOVED") for each in lineage(wanted, classes)]
    return {key: now for node in found if isinstance(node, ast.Dict) for key, now in ast.literal_eval(node).items()}


def key_of(node: ast.AnnAssign) -> str:
    """Tell a field's key: `max_per_destination` is MaxPerDestination, unless its metadata name another."""
    keywords = node.value.keywords if isinstance(node.value, ast.Call) else []
    for keyword in keywords:
        if keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
            for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "key" and isinstance(value, ast.Constant):
                    return str(value.value)
    return "".join(word.capitalize() for word in ast.unparse(node.target).split("_"))


def check_value(path: str, found: Any, annotation: ast.expr, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    options = ast.unparse(annotation).split(" | ")
    outer = [option.partition("[")[0] for option in options]
    inner = [word for option in options for word in re.findall(r"\w+", option)[1:] if word in classes]
    if isinstance(found, FromEnvironment):  # a number or true, where that is wanted
        found = str(found) if "str" in outer else found.value
    if isinstance(found, dict) and (names := [name for name in outer if name in classes]):
        yield from check_object(path, found, classes[names[0]], classes)
    elif isinstance(found, list) and inner:
        for number, item in enumerate(found):
            yield from check_object(f"{path}[{number}]", item, classes[inner[0]], classes)
    elif all(name in JSON_TYPES for name in outer) and not any(type(found) in JSON_TYPES[name] for name in outer):
        yield f"{path} must be {' or '.join(outer)}, not {type(found).__name__}"
