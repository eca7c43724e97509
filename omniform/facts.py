"""A system's declaration read back in the columns of the survey's table; nothing is written down twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isqrt

from omniform.geometry import MediaSize, Mosaic, Plan
from omniform.spec import Continuous, Discrete, Input, System

READ_AS = (("text", "Text"), ("image", "Vision"), ("video", "Vision"), ("audio", "Audio"), ("points", "3D"))
EMPTY = "-"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One derived row; a column holds one value for each different reading over the base and its variants."""

    input_type: tuple[str, ...]
    output_type: tuple[str, ...]
    output_modality: tuple[str, ...]
    llm_backbone: tuple[str, ...]
    modality_encoder: tuple[str, ...]
    connection: tuple[str, ...]
    modality_decoder: tuple[str, ...]
    max_resolution: tuple[str, ...]
    date: tuple[str, ...]

    def cell(self, column: str) -> str:
        """The column as one cell, alternatives joined as the survey joins them."""
        return " / ".join(getattr(self, column))


def facts(system: System) -> Facts:
    """The derived row of a system and its variants."""
    sizes = [system, *(system.variant(name) for name in system.variants)]
    return Facts(
        input_type=_distinct(s.input_type for s in sizes),
        output_type=_distinct(str(s.output_type) for s in sizes),
        output_modality=_distinct(_joined(", ", (name for m, name in READ_AS if m in s.outputs)) for s in sizes),
        llm_backbone=_distinct(s.backbone.title for s in sizes),
        modality_encoder=_distinct(_joined(" + ", map(_reader, s.inputs.values())) for s in sizes),
        connection=_distinct(_joined(" + ", map(_connector, s.inputs.values())) for s in sizes),
        modality_decoder=_distinct(
            _joined(" + ", (_writer(s, m) for m, o in s.outputs.items() if o.form != "text")) for s in sizes
        ),
        max_resolution=_distinct(reading for s in sizes for reading in resolutions(s)),
        date=(system.date,),
    )


def _reader(entry: Input) -> str:
    if isinstance(entry, Discrete):
        return entry.codec.title
    return entry.encoder.title if entry.encoder else ""


def _writer(system: System, modality: str) -> str:
    output = system.outputs[modality]
    return system.coded(modality).codec.writer if output.form == "discrete" else output.title


def _connector(entry: Input) -> str:
    return entry.connector.title if isinstance(entry, Continuous) else ""


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _joined(by: str, values: Iterable[str]) -> str:
    return by.join(_distinct(v for v in values if v)) or EMPTY


def resolutions(system: System) -> tuple[str, ...]:
    """Readings of the largest picture a system sees: "336"; for tiles "672" and "336*4"; "unlimited"; "" without one.

    Pictures of growing size and several shapes are planned; nothing is read.
    """
    entry = system.inputs.get("image")
    if not isinstance(entry, Continuous):
        return ("",)
    small, large = (_tiles(system, factor) for factor in (8, 16))
    side = max(plan.size[0] for plan in _plans(system, 8))
    if large > small or max(plan.size[0] for plan in _plans(system, 16)) > side:
        return ("unlimited",)
    if small == 1:
        return (str(side),)
    return (str(side * isqrt(small)), f"{side}*{small}")


def _plans(system: System, factor: int) -> list[Plan]:
    """Plans of square, wide and tall pictures of about `factor` times the encoder's side."""
    side = system.continuous("image").encoder.size[0] * factor
    shapes = ((1, 1), (1, 2), (2, 1), (1, 4), (4, 1), (2, 3), (3, 2))
    return [system.plan("image", MediaSize(width=side * w, height=side * h)) for w, h in shapes]


def _tiles(system: System, factor: int) -> int:
    """Most tiles of one picture; the overview is not counted."""
    return max(_tiles_of(plan) for plan in _plans(system, factor))


def _tiles_of(plan: Plan) -> int:
    laid = [block.tiles for block in plan.blocks if isinstance(block, Mosaic)]
    return max([1, *(rows * columns for rows, columns in [*laid, *(scale.tiles for scale in plan.scales)])])
