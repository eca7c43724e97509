"""Video as groups of frames averaged over time and space (NVILA's TSP encoder, arXiv:2412.04468 section 2.1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import Self, TypeAlias

from omniform.geometry import Block, Hw, Mean, MediaSize, Plan, Rgb, SpecError, View, Words
from omniform.parts import Shrunk, Sight, Views
from omniform.views.fixed import Fit, copied, fit_steps
from omniform.views.frames import Rounding, frame_numbers

Pool: TypeAlias = tuple[int, int, int]
"""Frames, rows and columns that are averaged into one."""


@dataclass(frozen=True, kw_only=True)
class PooledFrames(Views):
    """Frames pooled by each of `pools`, one pool after another (NVlabs/VILA@b760c34 llava/model/encoders/video/tsp.py).

    Attributes:
        frames: frames shown; a shorter video shows frames again.
        before, after: text around each averaged frame.
        between: text after each pool's frames.
        fit, fill, rounding, copies: as in `Frames`.
    """

    frames: int
    pools: tuple[Pool, ...]
    before: str = ""
    after: str = ""
    between: str = ""
    fit: Fit = "squash"
    fill: Rgb | None = None
    rounding: Rounding = "nearest"
    copies: int = 1

    def __post_init__(self) -> None:
        for pool in self.pools:
            if min(pool) < 1 or self.frames % pool[0]:
                raise SpecError(f"pool {pool} does not divide {self.frames} frames; give factors of the frames")

    @property
    def scales(self) -> int:
        return self.copies

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        shown = frame_numbers(media, self.frames, rounding=self.rounding, repeat=True)
        seen = tuple(dict.fromkeys(shown))
        views = tuple(View(fit_steps(self.fit, self.fill, media.hw, sight), frame) for frame in seen)
        order = tuple(seen.index(frame) for frame in shown)
        cell = sight.map("PooledFrames")
        blocks = [block for pool in self.pools for block in self._pooled(order, cell, pool)]
        return Plan(views=views, size=sight.size, blocks=tuple(blocks), scales=copied(len(views), self.copies))

    def _pooled(self, order: tuple[int, ...], cell: Hw, pool: Pool) -> list[Block]:
        if cell[0] % pool[1] or cell[1] % pool[2]:
            raise SpecError(f"pool {pool} does not divide the {cell[0]}x{cell[1]} map of a frame; give factors of it")
        blocks: list[Block] = []
        for start in range(0, len(order), pool[0]):
            mean = Mean(order[start : start + pool[0]], cell, pool[1:])
            blocks += [b for b in (Words(self.before), mean, Words(self.after)) if not isinstance(b, Words) or b.text]
        return [*blocks, Words(self.between)] if self.between else blocks

    def shrunk(self, size: Shrunk) -> Self:
        if size == "tiny":
            return self
        least = lcm(*(pool[0] for pool in self.pools))
        return self.but(frames=min(self.frames, 2 * least), copies=min(self.copies, 2))
