"""Module of `fusion.adapter_prompts`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from omniform.batch import Placed, State, Tree
from omniform.fusion.adapter_prompts import AdapterPrompts
from omniform.fusion.attached_module import Attached

Beside = Callable[[Tensor, float | None], Tensor]


@dataclass(frozen=True)
class Prompted(State):
    """What is added to the prompts.

    Attributes:
        media: for documents without media (0), and for each one with: the mean of its rows.
        which: which of these a position sees, of hidden states (rows, new, dim).
    """

    media: Float[Tensor, "documents dim"]
    which: Int[Tensor, "rows new"]

    def at(self, positions: Int[Tensor, "rows new"]) -> Prompted:
        return replace(self, which=self.which[0, positions])


class AdapterPromptsModule(Attached):
    """Gates in every layer, prompts for the topmost."""

    def __init__(self, spec: AdapterPrompts, backbone: Any, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.first = len(backbone.layers) - spec.layers
        self.prompts = nn.Embedding(spec.layers * spec.length, width)
        self.layers = nn.ModuleList(Gate(backbone.spec.heads) for _ in backbone.layers)
        self.before_attention(backbone)

    def forward(self, embeds: Float[Tensor, "n dim"], media: Placed) -> tuple[Float[Tensor, "n dim"], State]:
        rows = media.rows.to(embeds.dtype)
        owners = media.tree.span_of[media.anchors.cpu()]
        documents, numbers = owners.unique(return_inverse=True)
        of_row = torch.repeat_interleave(numbers, torch.tensor(media.counts, dtype=torch.long)).to(rows.device)
        sums = rows.new_zeros(len(documents) + 1, rows.shape[1]).index_add(0, of_row + 1, rows)
        counts = torch.bincount(of_row + 1, minlength=len(documents) + 1).clamp(min=1)
        which = _numbers(media.tree, documents).to(rows.device)
        return embeds, Prompted(sums / counts[:, None], which[None])

    def enter(self, number: int, attention: nn.Module, state: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        if state is None or number < self.first:
            return arguments
        return {**arguments, "beside": partial(self._attend, number, attention, state, arguments.get("beside"))}

    def _attend(
        self, number: int, attention: Any, state: Prompted, more: Beside | None, query: Tensor, scaling: float | None
    ) -> Float[Tensor, "rows heads new head_dim"]:
        """What the prompts of a layer give to queries (rows, heads, new, head_dim), gated."""
        prompts = self.prompts.weight.unflatten(0, (-1, self.spec.length))[number - self.first]
        seen = (prompts + state.media[:, None]).to(query.dtype).flatten(0, 1)
        keys, values = (
            project(seen).unflatten(-1, (-1, query.shape[-1])).transpose(0, 1)[None].expand(len(query), -1, -1, -1)
            for project in (attention.k_proj, attention.v_proj)
        )
        owner = torch.arange(len(state.media), device=query.device).repeat_interleave(self.spec.length)
        mask = (state.which[:, None, :, None] == owner) if len(state.media) > 1 else None
        gqa = keys.shape[1] != query.shape[1]
        out = F.scaled_dot_product_attention(query, keys, values, mask, scale=scaling, enable_gqa=gqa)
        gate: Any = self.layers[number]
        out = gate(out, self.spec.squashed)
        return out if more is None else out + more(query, scaling)

    def idle(self) -> tuple[str, ...]:
        return tuple(f"layers.{i}." for i in range(self.first))


class Gate(nn.Module):
    """One factor for each head, zero at the start."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1, heads, 1, 1))

    def forward(self, x: Float[Tensor, "rows heads new head_dim"], squashed: bool) -> Tensor:
        gate = self.gate.tanh() if squashed else self.gate
        return x * gate.to(x.dtype)


def _numbers(tree: Tree, documents: Int[Tensor, " documents"]) -> Int[Tensor, " n"]:
    """For every position 1 + the number of its span among those with media; 0 for the others."""
    of_span = torch.zeros(len(tree.spans), dtype=torch.long)
    of_span[documents] = torch.arange(1, len(documents) + 1)
    return of_span[tree.span_of]
