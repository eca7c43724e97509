"""Classifier-free guidance: poorer contexts of one answer are decoded beside it (arXiv:2207.12598, 2211.09800)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from omniform.data.processor import Ids, Sample
from omniform.decoders.codes import Context
from omniform.grammar import SpanIds
from omniform.inference.memory import Read


def poorer(context: Context, ids: Ids, span: SpanIds, bos: int | None) -> Ids:
    """What is left of a prompt, whose last id begins a medium, in a context.

    facebookresearch/chameleon@dbbe47f chameleon/inference/chameleon.py:302-327
    """
    start = [] if bos is None else [bos]
    if context == "nothing":
        return np.asarray([*start, span.begin], dtype=np.int64)
    return ids[np.isin(ids, [*start, *span.codes, span.begin, span.end])]


def mixed(logits: Float[Tensor, "contexts vocab"], scales: Sequence[float]) -> Float[Tensor, " vocab"]:
    """The poorest context's logits and each step to the next richer one, by its scale."""
    steps = logits[1:] - logits[:-1]
    return logits[0] + (steps * steps.new_tensor(scales)[:, None]).sum(0)


class Guide:
    """The poorer contexts of one answer while a medium is written.

    Args:
        prefill: reads samples (`Engine.prefill`).
        contexts: ids of each, the poorest first.
        scales: of the step from each to the next richer one, the last to the answer's own.
    """

    def __init__(
        self,
        backbone: Any,
        prefill: Callable[[Sequence[Sample]], Read],
        contexts: Sequence[Ids],
        scales: Sequence[float],
    ) -> None:
        self.backbone, self.scales = backbone, scales
        read = prefill([Sample(i, np.zeros(len(i), np.bool_), np.arange(len(i)), len(i)) for i in contexts])
        self.hidden = read.hidden
        self.decoding = read.go_on(backbone, range(len(contexts)))

    def mix(self, own: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
        """The answer's logits under guidance."""
        return mixed(torch.cat([self.backbone.logits(self.hidden).float(), own.float()[None]]), self.scales)

    def step(self, token: int) -> None:
        """Every context goes on with the answer's token."""
        tokens = torch.full((len(self.hidden),), token, device=self.hidden.device)
        self.hidden = self.decoding.step(tokens)
