"""The loss curve as inline SVG whose lines stretch with the page, and labels in HTML, which do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10

TINY = 1e-9
"""Height of the axis where every loss is zero."""


@dataclass(frozen=True)
class Curve:
    """Loss of one stage by step.

    Attributes:
        steps: rising step numbers, counted from 1 within the stage.
    """

    name: str
    steps: Sequence[int]
    losses: Sequence[float]


def nice_ticks(top: float, count: int = 5) -> list[float]:
    """At most `count` steps of a round size from 0 to not beyond `top`."""
    rough = top / count
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    return [i * step for i in range(int(top / step * 1.001) + 1)]


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Exponential moving average with the weight of `window` values, corrected for its start."""
    keep, total, weight, out = 1 - 1 / window, 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        out.append(total / weight if weight else value)
    return out


def loss_plot(curves: Sequence[Curve]) -> str:
    """HTML of all stages one after the other on one axis of steps; empty stages are left out."""
    curves = [c for c in map(_finite, curves) if c.steps]
    if not curves:
        return '<p class="quiet">No losses were recorded.</p>'
    top = max(TINY, *(max(c.losses) for c in curves))
    ends = [0]
    for curve in curves:
        ends.append(ends[-1] + curve.steps[-1])
    return (
        f'<div class="plot" role="img" aria-label="{escape(_spoken(curves))}"><div class="y">{_y_labels(top)}</div>'
        f'<div class="area"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">'
        f"{_grid(top)}{''.join(_lines(curves, ends, top))}</svg>{''.join(_stage_labels(curves, ends))}</div>"
        f'<div class="x">{"".join(_x_labels(ends))}</div></div>'
    )


def _finite(curve: Curve) -> Curve:
    pairs = [(s, v) for s, v in zip(curve.steps, curve.losses, strict=True) if isfinite(v)]
    return Curve(curve.name, [s for s, _ in pairs], [v for _, v in pairs])


def _spoken(curves: Sequence[Curve]) -> str:
    """What a screen reader says of the plot."""
    return "Loss by step. " + " ".join(
        f"{c.name}: from {c.losses[0]:.3g} to {smoothed(c.losses, _window(c))[-1]:.3g} in {c.steps[-1]:,} steps."
        for c in curves
    )


def _window(curve: Curve) -> int:
    return max(1, len(curve.losses) // 40)


def _y_labels(top: float) -> str:
    spans = (f'<span class="number" style="bottom:{100 * t / top:.2f}%">{t:.3g}</span>' for t in nice_ticks(top))
    return "".join(spans)


def _grid(top: float) -> str:
    heights = (1000 - 1000 * t / top for t in nice_ticks(top)[1:])
    return "".join(f'<line class="grid" x1="0" x2="1000" y1="{y:.1f}" y2="{y:.1f}"/>' for y in heights)


def _lines(curves: Sequence[Curve], ends: Sequence[int], top: float) -> Iterator[str]:
    for start, curve in zip(ends, curves, strict=False):
        if start:
            x = 1000 * start / ends[-1]
            yield f'<line class="edge" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="1000"/>'
        window = _window(curve)
        for name, values in (("raw", curve.losses), ("smooth", smoothed(curve.losses, window))):
            if name == "smooth" or window > 1:
                yield f'<path class="{name}" d="{_path(curve.steps, values, start, ends[-1], top)}"/>'


def _path(steps: Sequence[int], values: Sequence[float], start: int, last: int, top: float) -> str:
    """A polyline, thinned to at most about 600 points."""
    stride = max(1, len(steps) // 600)
    kept = [*range(0, len(steps) - 1, stride), len(steps) - 1]
    points = (f"{1000 * (start + steps[i]) / last:.1f},{1000 - 1000 * values[i] / top:.1f}" for i in kept)
    return "M" + "L".join(points)


def _stage_labels(curves: Sequence[Curve], ends: Sequence[int]) -> Iterator[str]:
    for start, end, curve in zip(ends, ends[1:], curves, strict=False):
        place = f"left:{100 * start / ends[-1]:.2f}%;width:{100 * (end - start) / ends[-1]:.2f}%"
        yield f'<span class="stage" style="{place}" title="{escape(curve.name)}">{escape(curve.name)}</span>'


def _x_labels(ends: Sequence[int]) -> Iterator[str]:
    """First and last step, and where stages meet unless that is too near an end."""
    for end in ends:
        at = 100 * end / ends[-1]
        if at in (0, 100) or 12 < at < 80:
            words = f"{end:,} steps" if at == 100 else f"{end:,}"
            yield f'<span class="number" style="left:{at:.2f}%">{words}</span>'
