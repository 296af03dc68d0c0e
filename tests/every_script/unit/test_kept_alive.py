# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc calls lives as long as the process: 1.12.7 and later crash at their end otherwise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.every_script.all_scripts import configuration
from tests.scripts import FILES


def kept_by(script: Path, module: Any) -> list[Any]:
    """What a script, or a module of a package, keeps."""
    if script.name != "__init__.py":
        return list(module.KEPT_ALIVE)
    names = [name for name in sys.modules if name.partition(".")[0] == script.parent.name]
    kept = [each for name in names for each in getattr(sys.modules[name], "KEPT_ALIVE", ())]
    for name in names:
        del sys.modules[name]  # they hold the stand-in
    return kept


@pytest.mark.parametrize("plugin", ["4.0", "7.1"])
@pytest.mark.parametrize("script", FILES, ids=lambda path: path.parent.name if path.stem == "__init__" else path.stem)
def test_each_callback_of_each_script_is_the_very_object_that_is_kept(script: Path, plugin: str) -> None:
    """A method that is named twice is two objects, which are equal."""
    standin = StandIn(plugin, configuration(["NODE", "127.0.0.1", 104]))
    standin.returns |= {
        **dict.fromkeys(("ExtendOrthancExplorer", "ExtendOrthancExplorer2", "SetMetricsValue")),
        **{"LookupDictionary": {"Group": 0x29, "Element": 0x1010}, "CheckVersionAdvanced": 1},
    }
    with standin.installed():
        kept = kept_by(script, standin.load(script))
    calls = [call for several in standin.registered.values() for call in several]
    callbacks = [argument for call in calls for argument in call if callable(argument)]
    assert len(callbacks) > 2
    assert [each for each in callbacks if not any(each is one for one in kept)] == []
