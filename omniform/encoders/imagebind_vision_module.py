"""Module of `encoders.imagebind_vision`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.image_module import ImageEncoder, square_positions
from omniform.encoders.imagebind_module import TowerModule
from omniform.encoders.imagebind_vision import ImageBindVision


class ImageBindVisionModule(TowerModule, ImageEncoder):
    """(views, 3, image, image) -> one embedding for each pair of views."""

    def __init__(self, spec: ImageBindVision) -> None:
        super().__init__(spec)
        kernel = (spec.together, spec.patch, spec.patch)
        self.patches = nn.Conv3d(3, spec.width, kernel, stride=kernel, bias=False)
        self.pre_norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self._make(spec)
        self.together = spec.together

    def forward(self, pixels: Float[Tensor, "views 3 height width"]) -> Features:
        return Features(self.embedding(self.trunk(pixels)), (1,))

    def trunk(self, pixels: Float[Tensor, "views 3 height width"]) -> Float[Tensor, "sets tokens dim"]:
        """Class token and patches after the last layer."""
        frames = pixels.unflatten(0, (-1, self.together)).transpose(1, 2)
        patches = self.patches(frames)[:, :, 0]
        x = self.with_class(patches.flatten(2).transpose(1, 2))
        x = x + square_positions(self.positions, (patches.shape[2], patches.shape[3]))
        return self.through(self.pre_norm(x))
