"""Cells gathered into a few groups by learned tokens (GroupViT, arXiv:2202.11094 section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Connector, Shrunk


@dataclass(frozen=True, kw_only=True)
class Grouping(Connector):
    """Stages of pre-norm layers that end in assigning every cell to a group, then layers over the last groups.

    Linear layers before and behind. NExT-GPT/NExT-GPT@60d618b nextgpt/model/multimodal_projector/projector.py:38-142,
    group.py. The groups of a stage start from its group tokens, mixed to as many as are given, and see all cells; each
    cell is then assigned to one group, and a group is the mean of its cells, with one more that is zero. A stage's
    group tokens are its own plus the ones before, mixed.

    Attributes:
        width: of everything between the linear layers.
        tokens: group tokens of each stage that assigns.
        groups: given by each of them; the last is the number of positions.
        depths: layers of each stage, and of what follows.
        hard: whether a cell belongs to its best group alone; gradients are those of the soft assignment.
        noisy: whether Gumbel noise is added to the choice while learning.
    """

    implementation = "omniform.connectors.grouping_module:GroupingModule"

    width: int = 512
    heads: int = 8
    tokens: tuple[int, ...] = (64, 8)
    groups: tuple[int, ...] = (64, 8)
    depths: tuple[int, ...] = (6, 3, 3)
    hard: bool = True
    noisy: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise SpecError(f"width {self.width} does not divide into {self.heads} heads")
        if not len(self.tokens) == len(self.groups) == len(self.depths) - 1:
            raise SpecError(
                f"tokens {self.tokens}, groups {self.groups}, depths {self.depths}: name tokens and groups of each "
                "stage that assigns, and one depth more"
            )

    @property
    def title(self) -> str:
        return "Grouping"

    def cells(self, grid: Grid) -> Grid:
        return (self.groups[-1],)

    def idle(self) -> tuple[tuple[str, int], ...]:
        """A bias that moves a cell's likeness to all groups alike."""
        return tuple((f"layers.{i}.downsample.assign.q_proj.bias", self.width) for i in range(len(self.groups)))

    def num_params(self, in_dim: int, out_dim: int) -> int:
        w = self.width
        mlp, norm, square = 8 * w * w + 5 * w, 2 * w, w * w + w
        layer = 3 * w * w + square + mlp + 2 * norm
        total = (in_dim + 1) * w + sum(self.depths) * layer + norm + (w + 1) * out_dim
        for number, (tokens, groups) in enumerate(zip(self.tokens, self.groups, strict=True)):
            mixed = _mixer(tokens, w // 2, groups)
            before = norm + _mixer(self.tokens[number - 1], w // 2, tokens) if number else 0
            total += tokens * w + before + mixed + 2 * (4 * square + mlp) + 6 * norm
        return total

    def flops(self, grid: Grid, in_dim: int, out_dim: int) -> int:
        w, cells = self.width, flat_rows(grid)
        total = 2 * cells * in_dim * w + 2 * self.groups[-1] * w * out_dim
        for number, depth in enumerate(self.depths):
            tokens = self.tokens[number] if number < len(self.tokens) else 0
            seen = cells + tokens
            total += depth * (24 * seen * w * w + 4 * seen * seen * w)
            if tokens:
                total += self._gather_flops(number, cells)
                cells = self.groups[number]
        return total

    def _gather_flops(self, stage: int, cells: int) -> int:
        """Of mixing a stage's tokens, the groups' look at the cells, and the assignment."""
        w, tokens, groups = self.width, self.tokens[stage], self.groups[stage]
        mixed = w * w * (tokens + groups)
        mixed += w * w * (self.tokens[stage - 1] + tokens) if stage else 0
        attention = 4 * w * w * (groups + cells) + 4 * groups * cells * w
        return mixed + 2 * attention + 2 * 16 * groups * w * w

    def shrunk(self, size: Shrunk) -> Self:
        tiny = {"width": 16, "heads": 2, "tokens": (6, 4), "groups": (6, 4), "depths": (1, 1, 1)}
        nano = {"width": 96, "heads": 4, "tokens": (16, 8), "groups": (16, 8), "depths": (2, 1, 1)}
        return self.but(**(tiny if size == "tiny" else nano))


def _mixer(tokens: int, hidden: int, given: int) -> int:
    """Parameters of an MLP over tokens, channel by channel."""
    return (tokens + 1) * hidden + (hidden + 1) * given
