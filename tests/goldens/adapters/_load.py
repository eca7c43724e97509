"""A golden's `param.` tensors into our modules, through the system's own release layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from omniform.parts import Rules
from omniform.spec import System
from omniform.weights.fill import fill, slots, without_memory
from omniform.weights.layout import LayoutError, match, released, rules_of, separate_rules
from omniform.weights.recast import apart, released_shapes


def build(system: System, params: Mapping[str, Tensor], separate: Mapping[str, str] | None = None) -> Any:
    """The model of a system with a golden's weights.

    Args:
        separate: prefix of the golden's keys -> our prefix, for weights that lie in a repository of their own.

    Raises:
        LayoutError: the golden does not hold exactly what the system needs.
    """
    apart = [(golden + a, b) for golden, ours in (separate or {}).items() for a, b in separate_rules(system, ours)]
    with without_memory():
        model = system.build()
    load(model, params, (*apart, *rules_of(system)), f"{system.slug} as released", system)
    return model.eval()


def load(
    module: nn.Module,
    params: Mapping[str, Tensor],
    rules: Rules,
    what: str = "this part",
    system: System | None = None,
) -> None:
    """A golden's weights into one module; rules as in a layout, our prefixes relative to the module.

    Args:
        system: whose layout says which tensors are recast.
    """
    needed = slots(module)
    shapes = released_shapes(system, needed.shapes) if system else needed.shapes
    found = match({k: tuple(t.shape) for k, t in params.items()}, shapes, rules, needed.aliases)
    missing = tuple(released(name, rules) or name for name in found.missing)
    if missing or found.left_over or found.mismatched:
        raise LayoutError("the golden", what, missing, found.left_over, found.mismatched)
    read = [(name, params[key]) for name, key in found.found.items()]
    if system:
        read = [own for name, values in read for own in apart(system, name, values, needed.shapes)]
    fill(module, read)
