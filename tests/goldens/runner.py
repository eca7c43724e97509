"""Runs goldens: the adapter of a system computes what the original gave, and each result is compared.

An adapter is `adapters/SLUG.py` (with `_` for `-` and `.`) with `run(golden) -> results`:
- for tensors, name -> tensor, as in the file's `out.`;
- for JSON, path ("cases/0/total_tokens") -> value; GIVEN marks a path that is an input.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .compare import Line, tensor_line, value_error
from .golden import Golden, load

GIVEN = object()
"""Result for a path of a JSON golden that is an input, so that it counts as covered."""


class NoAdapter(LookupError):
    """No adapter for the system of a golden."""


def check(path: str | Path) -> list[Line]:
    """One line for each tensor, or each case, of a golden.

    Raises:
        NoAdapter: nothing computes this system's results.
    """
    golden = load(path)
    torch.manual_seed(0)
    with torch.no_grad():
        results = adapter(golden.slug).run(golden)
    return json_lines(golden, results) if golden.data else tensor_lines(golden, results)


def adapter(slug: str) -> Any:
    name = slug.replace("-", "_").replace(".", "_")
    if not (Path(__file__).parent / "adapters" / f"{name}.py").is_file():
        raise NoAdapter(f"no adapter for {slug}: write tests/goldens/adapters/{name}.py")
    return importlib.import_module(f".adapters.{name}", __package__)


MASKS = ("attention_mask", "decoder_attention_mask")
"""Where rows of what was recorded are real; an encoder-decoder has one for each of its halves."""


def tensor_lines(golden: Golden, results: Mapping[str, Any]) -> list[Line]:
    """Compare tensors, where the attention mask of their rows and length is 1."""
    known = (golden.expected, results, golden.inputs)
    found = [next((held[n] for held in known if n in held), None) for n in MASKS]
    masks = {mask.shape: mask for mask in reversed(found) if mask is not None}
    lines = []
    for name, wanted in sorted(golden.expected.items()):
        if name in results:
            own = None if name in MASKS else masks.get(wanted.shape[:2])
            lines.append(tensor_line(f"out.{name}", results[name], wanted, own))
        else:
            lines.append(Line(f"out.{name}", math.inf, "not computed"))
    return lines


def json_lines(golden: Golden, results: Mapping[str, Any]) -> list[Line]:
    """Compare values, a line for each case; a case that nothing computed fails."""
    cases: dict[str, list[str]] = {case: [] for case in _cases(golden.data)}
    for path in results:
        cases.setdefault(_case(path), []).append(path)
    given = {path for path, value in results.items() if value is GIVEN}
    lines = []
    for case, paths in cases.items():
        compared = [p for p in paths if p not in given]
        if not compared:
            covered = case.split("/")[0] in given or case in given
            lines += [] if covered else [Line(case, math.inf, "not computed")]
            continue
        error, note, worst = max((*value_error(results[p], golden.at(p)), p) for p in compared)
        lines.append(Line(f"{case}, {len(compared)} values", error, f"{worst}: {note}" if note else ""))
    return lines


def _cases(data: Mapping[str, Any]) -> list[str]:
    lists = {key: value for key, value in data.items() if isinstance(value, list)}
    return [f"{k}/{i}" for k, v in lists.items() for i, item in enumerate(v) if isinstance(item, dict)]


def _case(path: str) -> str:
    first, *rest = path.split("/")
    return f"{first}/{rest[0]}" if rest and rest[0].isdigit() else first
