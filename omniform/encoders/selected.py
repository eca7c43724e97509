"""An encoder of whose cells a small network keeps the telling ones (arXiv:2309.04669 section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Encoder, Rules, Shrunk


@dataclass(frozen=True, kw_only=True)
class Selected(Encoder):
    """Features of all cells of the inner encoder, and a choice among them.

    For every cell two log-probabilities, of keeping and of dropping it, from its own features and the mean over all
    (jy0205/LaVIT@8cde9b4 LaVIT/models/modeling_visual_tokenzier.py:262-299). The choice is drawn, with noise that
    belongs to the view, so that a view always keeps the same cells; or it is the likelier one.

    Attributes:
        inner: the encoder; its mean, standard deviation and filter are this one's too.
        name: what the field calls the encoder together with what chooses; "" adds nothing.
        drawn: whether the choice is drawn.
    """

    implementation = "omniform.encoders.selected_module:SelectedModule"
    selects: ClassVar[bool] = True

    inner: Encoder
    name: str = ""
    drawn: bool = True

    def __post_init__(self) -> None:
        if self.inner.dim % 4:
            raise SpecError(
                f"Selected halves the features' width twice, but {type(self.inner).__name__} gives {self.inner.dim}; "
                "use an encoder whose width divides by 4"
            )
        for name in ("mean", "std", "resample"):
            object.__setattr__(self, name, getattr(self.inner, name))

    @property
    def released(self) -> Rules:  # type: ignore[override]  # the class attribute of families is an instance's here
        return (("", ""),)

    @property
    def title(self) -> str:
        return " + ".join(name for name in (self.inner.title, self.name) if name)

    @property
    def dim(self) -> int:
        return self.inner.dim

    @property
    def size(self) -> Hw:
        return self.inner.size

    def cells(self, size: Hw) -> Grid:
        return self.inner.cells(size)

    @property
    def selector_params(self) -> int:
        d = self.dim
        return 2 * d + d * (d + 1) + (d + 1) * (d // 2) + (d // 2 + 1) * (d // 4) + (d // 4 + 1) * 2

    def num_params(self) -> int:
        return self.inner.num_params() + self.selector_params

    def learnable_params(self, first_layer: int = 0) -> int:
        return self.inner.learnable_params(first_layer)

    def flops(self, size: Hw) -> int:
        """Of the features; choosing, which must come before the plan, takes them once more."""
        return self.inner.flops(size)

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(inner=self.inner.shrunk(size))
