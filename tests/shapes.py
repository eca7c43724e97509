"""The checker of tensor shapes and types that `conftest` hooks into the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from beartype import beartype

F = TypeVar("F", bound=Callable[..., object])


def checked(function: F) -> F:
    """beartype where shapes are stated; not elsewhere, and not with `Self`, which it cannot check on a lone method."""
    hints = [str(hint) for hint in getattr(function, "__annotations__", {}).values()]
    states_shapes = any("[Tensor," in hint for hint in hints)
    return beartype(function) if states_shapes and not any("Self" in hint for hint in hints) else function
