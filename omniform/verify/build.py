"""Stamp "build": every released size builds on `meta`, with the parameter counts that were published."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omniform.spec import System
from omniform.verify.check import Context, Failed

TOLERANCE = 0.01
TOTAL = "total"


def check(system: System, context: Context) -> str:
    """Build the base and every variant at full size.

    Raises:
        Failed: nothing was published, or a count is off by more than 1 %.
    """
    if not system.published_params:
        raise Failed(
            "published_params is empty; give the published or reference counts of encoder, connector, backbone"
        )
    said = []
    for name, sized, published in _sizes(system):
        counted = counts(sized)
        for part, expected in published.items():
            _compare(name, part, counted, expected)
        said.append(f"{name} {counted[TOTAL] / 1e9:.2f} G")
    figures = ", ".join(f"{part} {count / 1e6:.1f} M" for part, count in system.published_params.items())
    return f"{', '.join(said)}; within 1 % of published {figures}"


def counts(system: System) -> dict[str, int]:
    """Part path -> parameters as built on `meta`, and "total"; tied tensors count once."""
    import torch

    with torch.device("meta"):
        model: Any = system.build()
    modules = {**{path: model.part(path) for path in system.parts()}, TOTAL: model}
    return {path: sum(p.numel() for p in module.parameters()) for path, module in modules.items()}


def _sizes(system: System) -> Iterator[tuple[str, System, dict[str, int]]]:
    """(name, system, counts to compare): a variant is compared where it states counts of its own."""
    yield system.slug, system, dict(system.published_params)
    for name, differences in system.variants.items():
        sized = system.variant(name)
        stated = any(path.split(".")[0] == "published_params" for path in differences)
        yield f"{system.slug}:{name}", sized, dict(sized.published_params) if stated else {}


def _compare(name: str, part: str, counted: dict[str, int], expected: int) -> None:
    if part not in counted:
        raise Failed(f"{name}: published_params names {part!r}, but the parts are {', '.join(counted)}")
    if abs(counted[part] - expected) > TOLERANCE * expected:
        off = (counted[part] - expected) / expected
        raise Failed(f"{name}: {part} has {counted[part]:,} parameters, published {expected:,} ({off:+.1%})")
