"""How close two values are: one number each, zero where they are equal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Line:
    """One line of the report.

    Attributes:
        error: max |got - wanted| / max |wanted| for fractions; 0 or inf for what must be equal.
        note: what is wrong, when something is.
    """

    name: str
    error: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= TOLERANCE

    def __str__(self) -> str:
        return (
            f"{'PASS' if self.passed else 'FAIL'}  {self.error:9.2e}  {self.name}{f'  ({self.note})' * bool(self.note)}"
        )


def tensor_line(name: str, got: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Line:
    """Compare tensors; where `mask` (rows, length) fits their first axes, only where it is 1."""
    if got.shape != wanted.shape:
        return Line(name, math.inf, f"shape {list(got.shape)}, wanted {list(wanted.shape)}")
    if mask is not None and wanted.ndim >= 2 and wanted.shape[:2] == mask.shape:
        if not mask.any():
            return Line(name, math.inf, "nothing is compared: the mask is 0 everywhere")
        got, wanted = got[mask.bool()], wanted[mask.bool()]
    if not wanted.is_floating_point():
        wrong = int((got.long() != wanted.long()).sum())
        return Line(name, math.inf if wrong else 0.0, f"{wrong} of {wanted.numel()} differ" if wrong else "")
    return Line(name, relative(got.double(), wanted.double()))


def relative(got: Tensor, wanted: Tensor) -> float:
    """max |got - wanted| / max |wanted|; inf where a value is not finite on one side only."""
    if not wanted.numel():
        return 0.0
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    difference = torch.where(same, 0.0, (got - wanted).abs())
    scale = float(wanted[wanted.isfinite()].abs().max()) if bool(wanted.isfinite().any()) else 1.0
    worst = float(torch.nan_to_num(difference, nan=math.inf).max())
    return worst / scale if scale else worst


def value_error(got: Any, wanted: Any) -> tuple[float, str]:
    """Error of a JSON value and what is wrong: fractions relative to the largest beside them, the rest exact."""
    if isinstance(wanted, list) and _has_fractions(wanted) and isinstance(got, list | tuple):
        if len(got) != len(wanted):
            return math.inf, f"{len(got)} values, wanted {len(wanted)}"
        return relative(torch.tensor(got, dtype=torch.double), torch.tensor(wanted, dtype=torch.double)), ""
    if isinstance(wanted, list) and isinstance(got, list | tuple) and len(got) == len(wanted):
        return _worst(zip(got, wanted, strict=True))
    if isinstance(wanted, dict) and isinstance(got, Mapping) and set(got) == set(wanted):
        return _worst((got[key], wanted[key]) for key in wanted)
    if isinstance(wanted, float) and isinstance(got, int | float):
        return value_error([got], [wanted])
    return (0.0, "") if got == wanted else (math.inf, f"{got!r:.60}, wanted {wanted!r:.60}")


def _has_fractions(values: list[Any]) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return numbers and any(isinstance(v, float) for v in values)


def _worst(pairs: Any) -> tuple[float, str]:
    return max((value_error(got, wanted) for got, wanted in pairs), default=(0.0, ""), key=lambda e: e[0])
