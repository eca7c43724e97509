"""The networks of latent diffusion (arXiv:2112.10752), layer by layer as diffusers builds them: what each costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omniform.geometry import Grid, conv_flops

Cost = tuple[int, int]
"""Parameters and forward FLOPs of one layer."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level of a denoiser; every level but the last halves the map.

    Attributes:
        width: its channels.
        depth: layers of attention behind each block; 0: none. Below the last level there are as many, or one.
        condition: width of the rows that they read; 0: they read the latents again.
    """

    width: int
    depth: int = 0
    condition: int = 0


def params(layers: Iterable[Cost]) -> int:
    return sum(number for number, _ in layers)


def flops(layers: Iterable[Cost]) -> int:
    return sum(number for _, number in layers)


# --- layers ------------------------------------------------------------------------------------------------------


def norm(width: int) -> Cost:
    return 2 * width, 0


def conv(cells: int, kernel: int, a: int, b: int) -> Cost:
    return kernel**2 * a * b + b, conv_flops(cells, kernel, a, b)


def linear(rows: int, a: int, b: int, bias: bool = True) -> Cost:
    return a * b + b * bias, 2 * rows * a * b


def residual(cells: int, a: int, b: int, time: int = 0) -> Iterator[Cost]:
    """Two norms and convolutions, a third where the width changes; `time`: width of what tells the step."""
    yield from (norm(a), conv(cells, 3, a, b), norm(b), conv(cells, 3, b, b))
    if time:
        yield linear(1, time, b)
    if a != b:
        yield conv(cells, 1, a, b)


def attention(cells: int, level: Level, rows: int) -> Iterator[Cost]:
    """Layers that attend to the latents, then to a condition of so many rows, between two projections."""
    if not level.depth:
        return
    width = level.width
    read = (rows, level.condition) if level.condition else (cells, width)
    yield from (norm(width), linear(cells, width, width), linear(cells, width, width))
    for _ in range(level.depth):
        yield from [norm(width)] * 3
        for count, inner in ((cells, width), read):
            yield from [linear(count, inner, width, bias=False)] * 2
            yield linear(cells, width, width, bias=False)
            yield linear(cells, width, width)
            yield 0, 4 * cells * count * width
        yield from (linear(cells, width, 8 * width), linear(cells, 4 * width, width))


# --- the denoiser ------------------------------------------------------------------------------------------------


def denoiser(
    cells: Grid, latent: int, levels: Sequence[Level], blocks: int, time: int, rows: int = 0
) -> Iterator[Cost]:
    """Layers of a UNet, those that make the embedding of the step left out.

    Args:
        cells: (rows, columns) of the latents.
        latent: their channels.
        blocks: residual blocks of a level on the way down; on the way up there is one more.
        time: width of what each block reads of the step.
        rows: of the condition.
    """
    widths = [level.width for level in levels]
    areas = [area(cells, number) for number in range(len(levels))]
    first, last = levels[0].width, levels[-1].width
    yield conv(areas[0], 3, latent, first)
    for number, (a, b) in zip(_visits(len(levels), blocks), residuals(widths, blocks), strict=True):
        yield from residual(areas[number], a, b, time)
        yield from attention(areas[number], levels[number], rows)
    for number in range(1, len(levels)):
        yield conv(areas[number], 3, widths[number - 1], widths[number - 1])
        yield conv(areas[number - 1], 3, widths[number], widths[number])
    yield from (*residual(areas[-1], last, last, time), *residual(areas[-1], last, last, time))
    yield from attention(areas[-1], replace(levels[-1], depth=levels[-1].depth or 1), rows)
    yield from (norm(first), conv(areas[0], 3, first, latent))


def residuals(widths: Sequence[int], blocks: int) -> Iterator[tuple[int, int]]:
    """(in, out) of the residual blocks of a UNet's levels, those of the way up with what is handed over."""
    over, before = [widths[0]], widths[0]
    for number, c in enumerate(widths):
        for _ in range(blocks):
            yield before, c
            over.append(c)
            before = c
        over += [c] if number + 1 < len(widths) else []
    for c in reversed(widths):
        for _ in range(blocks + 1):
            yield before + over.pop(), c
            before = c


def _visits(levels: int, blocks: int) -> list[int]:
    """The level of each of these blocks."""
    down, up = range(levels), reversed(range(levels))
    return [n for n in down for _ in range(blocks)] + [n for n in up for _ in range(blocks + 1)]


def denoiser_config(latent: int, levels: Sequence[Level], blocks: int, groups: int) -> dict[str, Any]:
    """Arguments of that UNet, those of its attention left out."""
    kinds = ["CrossAttn" if level.depth else "" for level in levels]
    return {
        "in_channels": latent, "out_channels": latent, "block_out_channels": tuple(level.width for level in levels),
        "layers_per_block": blocks, "norm_num_groups": groups,
        "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
    }  # fmt: skip


# --- the autoencoder ---------------------------------------------------------------------------------------------


def encoder(cells: Grid, colours: int, latent: int, widths: Sequence[int], blocks: int) -> Iterator[Cost]:
    """Layers of an autoencoder's first half: a picture of so many colours -> (rows, columns) of latents."""
    areas, inner = _coder_areas(cells, len(widths)), widths[-1]
    yield conv(areas[0], 3, colours, widths[0])
    yield from _levels(areas, widths, blocks)
    yield from (*_middle(areas[-1], inner), norm(inner))
    yield from (conv(areas[-1], 3, inner, 2 * latent), conv(areas[-1], 1, 2 * latent, 2 * latent))


def decoder(cells: Grid, colours: int, latent: int, widths: Sequence[int], blocks: int) -> Iterator[Cost]:
    """Layers of its second half; each level has one block more."""
    areas, inner = _coder_areas(cells, len(widths)), widths[-1]
    yield from (conv(areas[-1], 1, latent, latent), conv(areas[-1], 3, latent, inner))
    yield from _middle(areas[-1], inner)
    yield from _levels(areas[::-1], widths[::-1], blocks + 1)
    yield from (norm(widths[0]), conv(areas[0], 3, widths[0], colours))


def coder_params(colours: int, latent: int, widths: Sequence[int], blocks: int) -> int:
    """Of both halves."""
    return sum(params(half((1, 1), colours, latent, widths, blocks)) for half in (encoder, decoder))


def coder_config(colours: int, latent: int, widths: tuple[int, ...], blocks: int, groups: int) -> dict[str, Any]:
    """Arguments of that autoencoder."""
    return {
        "in_channels": colours, "out_channels": colours, "latent_channels": latent, "block_out_channels": widths,
        "layers_per_block": blocks, "norm_num_groups": groups,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
    }  # fmt: skip


def _levels(areas: Sequence[int], widths: Sequence[int], blocks: int) -> Iterator[Cost]:
    """Residual blocks of levels in the order they are passed, and the convolutions between levels."""
    before = widths[0]
    for number, (cells, width) in enumerate(zip(areas, widths, strict=True)):
        for _ in range(blocks):
            yield from residual(cells, before, width)
            before = width
        if number + 1 < len(widths):
            yield conv(areas[number + 1], 3, width, width)


def _middle(cells: int, width: int) -> Iterator[Cost]:
    yield from (*residual(cells, width, width), *residual(cells, width, width), norm(width))
    yield from [linear(cells, width, width)] * 4
    yield 0, 4 * cells**2 * width


def _coder_areas(cells: Grid, levels: int) -> list[int]:
    """Cells of each level's map, the picture's first, the latents' last."""
    return [area(cells, number + 1 - levels) for number in range(levels)]


def area(cells: Grid, level: int) -> int:
    """Cells of a map that was halved `level` times, or doubled where it is negative."""
    rows, columns = (-(-side // 2**level) if level >= 0 else side * 2**-level for side in cells)
    return rows * columns
