"""ConvNeXt image towers of OpenCLIP (ConvNeXt, arXiv:2201.03545; laion/CLIP-convnext_large_d_320.* on the hub)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from omniform.encoders.clip import CLIP_MEAN, CLIP_STD
from omniform.encoders.conv_net import ConvNet
from omniform.frozen import FrozenMap
from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Encoder, Shrunk, conv_flops

LETTERS: Mapping[int, str] = FrozenMap({128: "B", 192: "L", 384: "XXL"})
"""Channels of the first stage -> what the field calls the size."""
STEM, DOWN, WIDE = 4, 2, 4
"""Stride of the stem, stride between stages, width of a block's MLP over its channels."""


@dataclass(frozen=True, kw_only=True)
class ConvNextClip(Encoder):
    """Stem and stages; no norm and no pooling after them.

    Attributes:
        image: side of a view, in pixels.
        widths, depths: channels and blocks of each stage.
        taken: stages whose maps are given, joined on channels; later ones are enlarged bilinearly to the first's map.
    """

    implementation = "omniform.encoders.convnext_clip_module:ConvNextClipModule"
    released = (("visual.trunk.", ""),)

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    image: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    taken: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths):
            raise SpecError(
                f"{len(self.widths)} widths and {len(self.depths)} depths; give one of each for every stage"
            )
        if not self.taken or list(self.taken) != sorted(set(self.taken) & set(range(len(self.widths)))):
            raise SpecError(f"taken {self.taken} must name stages from 0 to {len(self.widths) - 1} in growing order")
        self.cells(self.size)

    @property
    def title(self) -> str:
        return f"ConvNeXt-{LETTERS.get(self.widths[0], self.widths[0])}"

    @property
    def dim(self) -> int:
        return sum(self.widths[stage] for stage in self.taken)

    @property
    def size(self) -> Hw:
        return self.image, self.image

    def stride(self, stage: int) -> int:
        """Pixels that a cell of a stage's map stands for, on each side."""
        return STEM * DOWN**stage

    def cells(self, size: Hw) -> Grid:
        last = self.stride(len(self.widths) - 1)
        if size[0] % last or size[1] % last:
            raise SpecError(f"ConvNextClip reads views whose sides divide by {last}, got {size}")
        first = self.stride(self.taken[0])
        return size[0] // first, size[1] // first

    def stage_params(self, stage: int) -> int:
        """Parameters of one stage, with the downsampling before it."""
        d = self.widths[stage]
        block = (49 + 1) * d + 2 * d + d + 2 * WIDE * d * d + WIDE * d + d
        down = 0
        if stage:
            above = self.widths[stage - 1]
            down = 2 * above + DOWN * DOWN * above * d + d
        return down + self.depths[stage] * block

    def num_params(self) -> int:
        stem = (3 * STEM * STEM + 1) * self.widths[0] + 2 * self.widths[0]
        return stem + sum(self.stage_params(stage) for stage in range(len(self.widths)))

    def learnable_params(self, first_layer: int = 0) -> int:
        used = range(first_layer, self.taken[-1] + 1)
        if first_layer:
            return sum(self.stage_params(stage) for stage in used)
        return self.num_params() - sum(self.stage_params(s) for s in range(self.taken[-1] + 1, len(self.widths)))

    def flops(self, size: Hw) -> int:
        area = size[0] * size[1]
        total = conv_flops(area // STEM**2, STEM, 3, self.widths[0])
        for stage, (above, d) in enumerate(pairwise((self.widths[0], *self.widths))):
            if stage > self.taken[-1]:
                break
            cells = area // self.stride(stage) ** 2
            total += conv_flops(cells, DOWN, above, d) if stage else 0
            total += self.depths[stage] * cells * 2 * (49 * d + 2 * WIDE * d * d)
        return total

    def shrunk(self, size: Shrunk) -> Encoder:  # type: ignore[override]  # of another kind at nano size
        """Narrow at tiny size. At nano size a `ConvNet` of 128x128 views, as for `Vit`, twice as fine as there."""
        if size == "nano":
            return ConvNet(mean=self.mean, std=self.std, resample=self.resample, image=128)
        stages = len(self.widths)
        return self.but(
            image=2 * self.stride(stages - 1), widths=tuple(range(4, 4 + 2 * stages, 2)), depths=(1,) * stages
        )


CONVNEXT_CLIP_L_768 = ConvNextClip(
    image=768, widths=(192, 384, 768, 1536), depths=(3, 3, 27, 3), taken=(0, 1, 2, 3)
)  # fmt: skip
