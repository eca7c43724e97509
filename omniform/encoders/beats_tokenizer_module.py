"""BEATs' tokenizer of sound: the discrete labels that its encoder learned to predict (arXiv:2212.09058 section 3.2).

microsoft/unilm@768a3c8 beats/Tokenizers.py, beats/quantizer.py. It is no codec: nothing turns labels back into sound.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from omniform.encoders.beats import Beats
from omniform.encoders.beats_module import BeatsModule


class BeatsTokenizer(BeatsModule):
    """Cells of the encoder, projected, to the nearest of `codes` unit vectors.

    Args:
        codes: 1,024 in the releases.
        width: of a code, 256 in the releases.
    """

    def __init__(self, spec: Beats, codes: int = 1024, width: int = 256) -> None:
        super().__init__(spec)
        self.quantize_layer = nn.Sequential(nn.Linear(spec.width, spec.width), nn.Tanh(), nn.Linear(spec.width, width))
        self.quantize: Any = nn.ModuleDict({"embedding": _Codes(codes, width)})

    def projected(self, waves: Float[Tensor, "views 1 samples"]) -> Float[Tensor, "views cells width"]:
        """What is compared with the codes, before its length becomes 1."""
        return self.quantize_layer(self(self.normalise(waves)).values)

    def labels(self, projected: Float[Tensor, "views cells width"]) -> Int[Tensor, "views cells"]:
        """Number of the nearest code of each cell."""
        codes = self.quantize["embedding"].weight
        return (F.normalize(projected, dim=-1) @ F.normalize(codes, dim=-1).T).argmax(-1)

    def quantised(self, labels: Int[Tensor, "views cells"]) -> Float[Tensor, "views cells width"]:
        """The codes themselves."""
        return self.quantize["embedding"].weight[labels]


class _Codes(nn.Module):
    """Code vectors, and the running statistics with which they were learned."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        vectors = F.normalize(torch.randn(codes, width), dim=-1)
        self.weight = nn.Parameter(vectors)
        self.embed_avg = nn.Parameter(vectors.clone(), requires_grad=False)
        self.cluster_size = nn.Parameter(torch.zeros(codes), requires_grad=False)
        self.register_buffer("initted", torch.ones(1))
