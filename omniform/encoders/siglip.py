"""SigLIP vision transformers (arXiv:2303.15343), through transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from omniform.encoders.vit import Vit


@dataclass(frozen=True, kw_only=True)
class SigLip(Vit):
    """SigLIP in the transformers layout; there is no class token.

    Attributes:
        head: whether the weights hold the (unused) attention-pooling head.
    """

    abstract = False
    implementation = "omniform.encoders.vit_module:SigLipModule"
    released = (("vision_model.", "model."),)
    family: ClassVar[str] = "SigLIP-"
    class_token: ClassVar[bool] = False
    patch_bias: ClassVar[bool] = True

    activation: str = "gelu_pytorch_tanh"
    norm_eps: float = 1e-6
    head: bool = True

    def head_params(self) -> int:
        """Parameters of the pooling head, where there is one."""
        d, m = self.width, self.mlp_dim
        return (d + 4 * (d * d + d) + 2 * d + 2 * d * m + d + m) * self.head

    def idle_params(self) -> int:
        return super().idle_params() + self.head_params()

    def num_params(self) -> int:
        return super().num_params() + self.head_params()

    def config(self) -> dict[str, Any]:
        return {**super().config(), "vision_use_head": self.head}


SIGLIP_SO400M_384 = SigLip(width=1152, layers=27, heads=16, mlp_dim=4304, patch=14, image=384)
SIGLIP_SO400M_448 = SIGLIP_SO400M_384.but(image=448)
