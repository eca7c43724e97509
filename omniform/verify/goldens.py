"""The golden files of a source checkout (`tests/goldens`): recorded numbers, manifests, and the code that compares.

They are not installed with the package, so a folder can be given.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from omniform.verify.check import Context, Failed

BESIDE = Path(__file__).parents[2] / "tests" / "goldens"
NAME = "omniform_goldens"


def folder(context: Context) -> Path:
    """Where the golden files are.

    Raises:
        Failed: there are none.
    """
    found = context.goldens or BESIDE
    if not (found / "__init__.py").is_file():
        raise Failed(f"no golden files here: {found} is not tests/goldens of a source checkout; give it with --goldens")
    return found.resolve()


def module(name: str, context: Context) -> Any:
    """A module of the golden package ("runner", "manifest"), whatever its checkout is called."""
    init = folder(context) / "__init__.py"
    if NAME not in sys.modules or sys.modules[NAME].__file__ != str(init):
        spec = importlib.util.spec_from_file_location(NAME, init, submodule_search_locations=[str(init.parent)])
        assert spec and spec.loader
        package = importlib.util.module_from_spec(spec)
        for old in [m for m in sys.modules if m.partition(".")[0] == NAME]:
            del sys.modules[old]
        sys.modules[NAME] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{NAME}.{name}")


def files(slug: str, context: Context) -> list[Path]:
    """Recorded results of one system."""
    found = folder(context).glob(f"{slug}__*")
    return sorted(path for path in found if path.suffix in (".safetensors", ".json"))
