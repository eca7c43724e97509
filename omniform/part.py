"""What every declaration of a part is: plain data that names its module, and shrinks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from omniform.index import resolve

Shrunk = Literal["tiny", "nano"]
"""`tiny`: random weights for unit tests. `nano`: learns on a laptop CPU."""

Rules = tuple[tuple[str, str], ...]
"""Ordered (released prefix, our prefix) pairs; the first that matches a key applies. See `weights.layout`."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A declaration that builds one module."""

    implementation: ClassVar[str]

    @property
    def title(self) -> str:
        """What the field calls it; the survey's table uses the same words."""
        return type(self).__name__

    def build(self, **widths: Any) -> Any:
        """The `nn.Module` this declaration stands for; `widths` come from the neighbours."""
        return resolve(self.implementation)(self, **widths)

    def shrunk(self, size: Shrunk) -> Self:
        """The same idea at `tiny` or `nano` size. Parts without sizes of their own stay as they are."""
        return self

    def but(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)
