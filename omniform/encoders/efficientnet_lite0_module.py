"""Module of `encoders.efficientnet_lite0`."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.efficientnet_lite0 import STEM, Block, EfficientNetLite0
from omniform.encoders.image_module import ImageEncoder


class EfficientNetLite0Module(ImageEncoder):
    """(views, 3, height, width) -> features of the chosen stage."""

    def __init__(self, spec: EfficientNetLite0) -> None:
        super().__init__(spec)
        self.stem = ConvNorm(3, STEM, 3, stride=2)
        self.blocks = nn.ModuleList(Bottleneck(block) for block in spec.blocks())

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        x = F.relu6(self.stem(pixels))
        for block in self.blocks:
            x = block(x)
        return Features(x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3]))

    def layer_prefix(self) -> str:
        return "blocks."


class Bottleneck(nn.Module):
    """Widen, convolve each channel alone, narrow; added to its input where shapes allow."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        mid = block.mid_dim
        self.expand = ConvNorm(block.in_dim, mid, 1) if mid != block.in_dim else None
        self.depthwise = ConvNorm(mid, mid, block.kernel, stride=block.stride, groups=mid)
        self.project = ConvNorm(mid, block.dim, 1)
        self.adds = block.stride == 1 and block.in_dim == block.dim

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.adds else y


class ConvNorm(nn.Module):
    """Convolution whose output has ceil(side / stride) cells, padded as TensorFlow does, then batch norm."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel, stride, groups=groups, bias=False)
        self.norm = FixedNorm(dim, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.conv.kernel_size, self.conv.stride
        pads: list[int] = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]  # the odd cell goes right or below
        return self.norm(self.conv(F.pad(x, pads)))


class FixedNorm(nn.BatchNorm2d):
    """Batch norm by stored statistics, in training too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
