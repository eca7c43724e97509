"""Module of `fusion.visual_expert`."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from omniform.batch import Placed, State
from omniform.fusion.attached_module import Attached
from omniform.fusion.splice_module import spliced
from omniform.fusion.visual_expert import VisualExpert

QKV = ("q_proj", "k_proj", "v_proj")
SEEN = ("k_proj", "v_proj", "query_key_value", "qkv_proj", "Wqkv", "c_attn")
"""What families call the modules that give keys and values."""


@dataclass(frozen=True)
class Visual(State):
    """Which positions pass the expert.

    Attributes:
        mask: of hidden states (rows, new, dim).
    """

    mask: Bool[Tensor, "rows new"]

    def at(self, positions: Int[Tensor, "rows new"]) -> Visual | None:
        mask = self.mask[0, positions]
        return Visual(mask) if bool(mask.any()) else None

    def after(self, positions: Int[Tensor, "rows new"]) -> None:
        """New text passes the language's modules."""
        return

    @cached_property
    def parts(self) -> tuple[Int[Tensor, " text"], Int[Tensor, " visual"], Int[Tensor, " all"]]:
        """Flat numbers of text, of what passes the expert, and where each position stands when both are joined."""
        text, visual = (~self.mask).flatten().nonzero()[:, 0], self.mask.flatten().nonzero()[:, 0]
        return text, visual, torch.cat([text, visual]).argsort()


class VisualExpertModule(Attached):
    """A twin of each linear module of each layer, by the same name; it begins as a copy (mixin.py `copy_param`).

    Hooks take the positions of media out of a module's input and put what the twin makes of them into its output, so
    that no position passes both.
    """

    def __init__(self, spec: VisualExpert, backbone: Any, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.ModuleList()
        self._states: dict[int, Visual | None] = {}
        self._inputs: list[Tensor | None] = []
        for number, layer in enumerate(backbone.layers):
            twins = nn.ModuleDict()
            for name, module in _linears(layer):
                self._handles += self._attach(number, module, _add(twins, name, self._twin(name, module)))
            self.layers.append(twins)
            self._handles.append(layer.register_forward_hook(partial(self._leave, number), always_call=True))
        self.before_attention(backbone)

    def idle(self) -> tuple[str, ...]:
        """What the last layer makes of media is read where their end, the last row, passes the expert."""
        last = len(self.layers) - 1
        names = [name for name, _ in _linears(self.layers[last])] if self.spec.end_is_text else []
        return tuple(f"layers.{last}.{name}." for name in names if not name.endswith(SEEN))

    def _twin(self, name: str, module: nn.Linear) -> nn.Linear:
        twin = deepcopy(module)
        if self.spec.qkv_bias and twin.bias is None and name.endswith(QKV):
            twin.bias = nn.Parameter(torch.zeros_like(twin.weight[:, 0]))
        return twin

    @torch.no_grad()
    def copy(self, backbone: Any) -> None:
        """Begin anew as a copy of the language's modules; biases that those lack are zero."""
        for layer, twins in zip(backbone.layers, self.layers, strict=True):
            for name, module in _linears(layer):
                for leaf, values in twins.get_submodule(name).named_parameters():
                    own = getattr(module, leaf)
                    values.zero_() if own is None else values.copy_(own)

    def forward(self, embeds: Float[Tensor, "n dim"], media: Placed) -> tuple[Float[Tensor, "n dim"], State | None]:
        x = spliced(embeds, media)
        if not len(media.at):
            return x, None
        mask = torch.zeros(1, len(x), dtype=torch.bool, device=x.device)
        mask[0, media.at] = True
        if self.spec.end_is_text:
            ends = torch.tensor(media.counts, device=x.device).cumsum(0) - 1
            mask[0, media.at[ends]] = False
        return x, Visual(mask)

    def enter(self, number: int, attention: nn.Module, state: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        self._states[number] = state
        return arguments

    def _attach(self, number: int, module: nn.Linear, twin: nn.Module) -> list[Any]:
        before = module.register_forward_pre_hook(partial(self._text_only, number))
        return [before, module.register_forward_hook(partial(self._joined, number, twin), always_call=True)]

    def _text_only(self, number: int, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """The module's input without what its twin reads, as flat rows."""
        state, x = self._states.get(number), given[0]
        self._inputs.append(x if state else None)
        return (x.flatten(0, 1)[state.parts[0]],) if state else given

    def _joined(self, number: int, twin: nn.Module, module: nn.Module, _: Any, out: Tensor | None) -> Tensor | None:
        """The outputs of both at their positions; a module that failed has none."""
        state, x = self._states.get(number), self._inputs.pop()
        if state is None or x is None or out is None:
            return None
        _, visual, order = state.parts
        both = torch.cat([out, twin(x.flatten(0, 1)[visual])])
        return both[order].unflatten(0, x.shape[:-1])

    def _leave(self, number: int, *_: Any) -> None:
        self._states.pop(number, None)


def _linears(layer: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    return ((name, module) for name, module in layer.named_modules() if isinstance(module, nn.Linear))


def _add(twins: nn.ModuleDict, name: str, twin: nn.Module) -> nn.Module:
    """Put a twin under the name that its model has in the layer."""
    *above, last = name.split(".")
    for step in above:
        if step not in twins:
            twins[step] = nn.ModuleDict()
        inner: Any = twins[step]
        twins = inner
    twins[last] = twin
    return twin
