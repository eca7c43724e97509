"""Classifier-free guidance: poorer contexts of an answer are decoded beside it (arXiv:2207.12598, 2211.09800)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
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


def mixed(logits: Float[Tensor, "*rows contexts vocab"], scales: Sequence[float]) -> Float[Tensor, "*rows vocab"]:
    """The poorest context's logits and each step to the next richer one, by its scale."""
    steps = logits[..., 1:, :] - logits[..., :-1, :]
    return logits[..., 0, :] + (steps * steps.new_tensor(scales)[:, None]).sum(-2)


class Guide:
    """The poorer contexts of answers that write media which began together.

    Args:
        prefill: reads samples (`Engine.prefill`).
        contexts: ids of each answer's, the poorest first.
        scales: of the step from each context to the next richer one, the last to the answer's own.
    """

    def __init__(
        self,
        backbone: Any,
        prefill: Callable[[Sequence[Sample]], Read],
        contexts: Sequence[Sequence[Ids]],
        scales: Sequence[float],
    ) -> None:
        self.backbone, self.scales = backbone, scales
        ids = [context for own in contexts for context in own]
        read = prefill([Sample(i, np.zeros(len(i), np.bool_), np.arange(len(i)), len(i)) for i in ids])
        self.hidden = self._of_answers(read.hidden)
        self.decoding = read.go_on(backbone, range(len(ids)))

    def _of_answers(self, values: Float[Tensor, "n width"]) -> Float[Tensor, "answers contexts width"]:
        return values.unflatten(0, (-1, len(self.scales)))

    def mix(self, own: Float[Tensor, "answers vocab"]) -> Float[Tensor, "answers vocab"]:
        """The answers' logits under guidance."""
        poorer = self._of_answers(self.backbone.logits(self.hidden.flatten(0, 1)).float())
        return mixed(torch.cat([poorer, own.float()[:, None]], 1), self.scales).to(own.dtype)

    def step(self, going: Sequence[int], tokens: Int[Tensor, " going"]) -> None:
        """Every context goes on with its answer's token; only these answers, counted among those there were, do."""
        each = len(self.scales)
        if len(going) < len(self.hidden):
            self.decoding.keep([answer * each + context for answer in going for context in range(each)])
        self.hidden = self._of_answers(self.decoding.step(tokens.repeat_interleave(each)))
