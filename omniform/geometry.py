"""What one piece of media will become, computed without touching it: views for the encoder, positions for the backbone.

A *plan* is data. Its `views` say how the medium is resized, padded and cut (run by `data.media`);
its `blocks` say in which order the features come back as rows (run by `views.arrange`).
Sizes are (height, width) everywhere except `MediaSize`, which names its axes; a view of sound is (1, samples).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, TypeAlias

Grid: TypeAlias = tuple[int, ...]
"""Cells of a feature map: (rows, columns), or (count,) when there is no map."""
Hw: TypeAlias = tuple[int, int]
Rgb: TypeAlias = tuple[int, int, int]


class SpecError(ValueError):
    """A declaration that cannot work; the message names what disagrees and what would fit."""


@dataclass(frozen=True, kw_only=True)
class MediaSize:
    """Size of one medium: pixels, and for video its frames and their rate (frames a second, where it is known); or, for
    sound, its samples (of each channel) and their rate (samples a second)."""

    width: int = 0
    height: int = 0
    frames: int = 1
    fps: float | None = None
    samples: int = 0
    rate: int = 0

    def __post_init__(self) -> None:
        if self.samples or self.rate:
            self._check_sound()
        elif min(self.width, self.height, self.frames) < 1:
            raise SpecError(f"media of {self.width}x{self.height}, {self.frames} frames: every side must be at least 1")
        if self.fps is not None and self.fps <= 0:
            raise SpecError(f"a rate of {self.fps} frames a second; give a positive one, or None where it is unknown")

    def _check_sound(self) -> None:
        if min(self.samples, self.rate) < 1:
            raise SpecError(f"sound of {self.samples} samples at {self.rate} a second: both must be at least 1")
        if self.width or self.height:
            raise SpecError(
                f"media of {self.width}x{self.height} pixels and {self.samples} samples; a medium is seen or heard, "
                "so give a video's sound as a medium of its own"
            )

    @property
    def hw(self) -> Hw:
        """(height, width) of a picture.

        Raises:
            SpecError: the medium is sound.
        """
        if self.samples:
            raise SpecError(f"sound of {self.samples} samples has no height and width; use views 'Windows'")
        return self.height, self.width

    @property
    def seconds(self) -> float:
        """Length of sound."""
        return self.samples / self.rate


# --- from media to views -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resize:
    """Resample the whole picture to (height, width), on 8-bit pixels.

    `smooth` is the encoder's filter over all pixels that shrink to one; without, one is read between its four nearest.
    """

    size: Hw
    smooth: bool = True


@dataclass(frozen=True)
class Pad:
    """Paste the picture at (top, left) of a canvas of one colour."""

    size: Hw
    offset: Hw
    fill: Rgb


@dataclass(frozen=True)
class Crop:
    """Cut (top, left) .. (top + height, left + width)."""

    offset: Hw
    size: Hw


@dataclass(frozen=True)
class Mono:
    """One channel of sound: the first, or the mean of all."""

    mix: Literal["first", "mean"]


@dataclass(frozen=True)
class Resample:
    """Sound at another rate (samples a second): `resampled_length` samples afterwards."""

    rate: int


@dataclass(frozen=True)
class Span:
    """Samples start .. start + samples of sound; silence after its end."""

    start: int
    samples: int


Step: TypeAlias = Resize | Pad | Crop | Mono | Resample | Span


def resampled_length(samples: int, rate: int, new: int) -> int:
    """Samples after resampling from one rate to another: the quotient rounded up."""
    return -(-samples * new // rate)


@dataclass(frozen=True)
class View:
    """What the encoder sees or hears at once: steps applied to one frame of the medium, or to its sound."""

    steps: tuple[Step, ...] = ()
    frame: int = 0


# --- from features to positions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flat:
    """All rows of one view's feature map, row-major; `still`: all at one position id."""

    view: int
    rows: int
    still: bool = False

    @property
    def positions(self) -> int:
        return self.rows


@dataclass(frozen=True)
class Kept:
    """Some rows of one view's feature map, row-major: those of the `cells` (numbers) that its encoder chose."""

    view: int
    cells: tuple[int, ...]

    @property
    def positions(self) -> int:
        return len(self.cells)


@dataclass(frozen=True)
class Mosaic:
    """Consecutive views laid side by side as one feature map, cut, resampled and read row-major.

    `tiles` views of `cell` cells each form the map, starting at view `first`; `crop` (top, left, height, width)
    takes the padding off; `resize` resamples bilinearly; `newline` names a learned row appended to each map row.
    """

    first: int
    tiles: Hw
    cell: Hw
    crop: tuple[int, int, int, int] | None = None
    resize: Hw | None = None
    newline: str | None = None

    @property
    def size(self) -> Hw:
        if self.resize:
            return self.resize
        if self.crop:
            return self.crop[2], self.crop[3]
        return self.tiles[0] * self.cell[0], self.tiles[1] * self.cell[1]

    @property
    def positions(self) -> int:
        height, width = self.size
        return height * (width + (1 if self.newline else 0))


@dataclass(frozen=True)
class Mean:
    """Mean over several views (a view may count more than once) and over patches of `pool` cells: one map's rows."""

    views: tuple[int, ...]
    cell: Grid
    pool: Hw = (1, 1)

    @property
    def positions(self) -> int:
        return prod(self.cell) // prod(self.pool)


@dataclass(frozen=True)
class Volume:
    """All rows of consecutive views as one map over time: view after view, each row-major.

    `frames` views of `cell` cells each, starting at view `first`.
    """

    first: int
    frames: int
    cell: Hw

    @property
    def positions(self) -> int:
        return self.frames * prod(self.cell)


@dataclass(frozen=True)
class Learned:
    """One learned row, by name."""

    name: str
    positions: int = 1


@dataclass(frozen=True)
class Words:
    """Text between rows of one medium; its token count is the tokenizer's, so it adds no media rows."""

    text: str
    positions: int = 0


Block: TypeAlias = Flat | Kept | Mosaic | Mean | Volume | Learned | Words


@dataclass(frozen=True, kw_only=True)
class Positions:
    """The rule for position ids: words count on by one, and the rows of a medium as it says (`data.positions`).

    Attributes:
        media: "running": row after row takes the next id, or all of a block the same where it is still. "map": ids
            have three axes - frame, row and column of the block's map, each counted from the next id - and words take
            the same id on all of them (M-RoPE, arXiv:2409.12191 section 2.1); blocks without a map run on.
        after: where words go on after a map: behind its "largest" id, or behind the larger "side" of its frames
            however many they are.
    """

    media: Literal["running", "map"] = "running"
    after: Literal["largest", "side"] = "largest"

    @property
    def axes(self) -> int:
        return 3 if self.media == "map" else 1


@dataclass(frozen=True)
class Scale:
    """Views from `first` on that show the picture at one scale, as (rows, columns) of tiles."""

    first: int
    tiles: Hw


@dataclass(frozen=True)
class Plan:
    """Everything about one medium that can be known without its pixels.

    `size` is what every view has after its steps. Where `scales` are given, they show the same picture at growing
    scale: their features are joined on channels before the connector, at the map of the last scale, and the blocks
    count the last scale's views. Where they are `averaged`, the connector sees one view, the mean of all features.
    """

    views: tuple[View, ...]
    size: Hw
    blocks: tuple[Block, ...]
    scales: tuple[Scale, ...] = ()
    averaged: bool = False

    @property
    def positions(self) -> int:
        """Rows of media the backbone will read (text between them not counted)."""
        return sum(block.positions for block in self.blocks)

    def keeping(self, cells: Sequence[tuple[int, ...]]) -> Plan:
        """The plan of which each view gives only some cells, by their numbers.

        Raises:
            SpecError: the views' rows are laid out as maps, which would have holes.
        """
        odd = {type(b).__name__ for b in self.blocks} - {"Flat", "Learned", "Words"}
        if odd:
            raise SpecError(
                f"an encoder that keeps some cells leaves holes in maps, but the views lay out {', '.join(odd)}; "
                "use views 'Fixed'"
            )
        blocks = tuple(Kept(b.view, cells[b.view]) if isinstance(b, Flat) else b for b in self.blocks)
        return replace(self, blocks=blocks)


def span(block: Block) -> int:
    """Position ids that a block takes; its rows stand at them one after the other, what is over at the last."""
    return 1 if isinstance(block, Flat) and block.still else block.positions


def flat_rows(grid: Grid) -> int:
    return prod(grid)


@dataclass(frozen=True)
class Sight:
    """What a views strategy must know of the encoder and connector it feeds.

    Attributes:
        size: (height, width) of a view.
        mean_rgb: 8-bit mean colour, for padding.
        cells: view size -> cells after the encoder and the connector.
        rate: samples a second, where the encoder hears.
        together: views that become one set of features.
    """

    size: Hw
    mean_rgb: Rgb
    cells: Callable[[Hw], Grid]
    rate: int = 0
    together: int = 1

    def map(self, what: str) -> Hw:
        """Cells of one view, where they must form a two-dimensional map.

        Raises:
            SpecError: the connector gives a list of positions, not a map.
        """
        grid = self.cells(self.size)
        if len(grid) != 2:
            raise SpecError(
                f"{what} lays feature maps out in rows and columns, but the connector gives {flat_rows(grid)} "
                "positions without a map; use views 'Fixed', or a connector that keeps the map (Linear, Mlp)"
            )
        return grid[0], grid[1]


# --- FLOPs of what has a shape (a multiply-add counts as 2) -------------------------------------------------------


def conv_flops(cells: int, kernel: int, in_dim: int, out_dim: int) -> int:
    """Forward FLOPs of a dense convolution with `cells` output cells."""
    return 2 * cells * kernel * kernel * in_dim * out_dim


def conv1d_flops(cells: int, kernel: int, in_dim: int, out_dim: int) -> int:
    """Forward FLOPs of a dense one-dimensional convolution with `cells` output cells."""
    return 2 * cells * kernel * in_dim * out_dim


def vit_flops(tokens: int, layers: int, dim: int, mlp_dim: int) -> int:
    """Forward FLOPs of a plain pre-norm transformer encoder."""
    per_token = 2 * (4 * dim * dim + 2 * dim * mlp_dim)
    return layers * (tokens * per_token + 4 * tokens * tokens * dim)
