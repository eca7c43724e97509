"""Module of `experts.routed`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from omniform.batch import Notes, Tree
from omniform.experts.routed import Routed


class RoutedModule(nn.Module):
    """The experts of all layers, attached to a transformers model in the place of these layers' MLPs.

    The first expert of each layer is the MLP that stood there; `detach` puts it back. A hook hands over the tree and
    the notes that a layer's attention is called with; nothing is kept after the layer.

    Attributes:
        layers: number of the layer -> its experts.
        joined: whether all experts of a layer are one MLP, the first: nothing is routed.

    Raises:
        ValueError: the model's layers have no `mlp`.
    """

    def __init__(self, spec: Routed, layers: nn.ModuleList, attention_of: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.joined = False
        self.layers = nn.ModuleDict()
        self.handles: list[Any] = []
        self.hosts = [layers[i] for i in spec.layers(len(layers))]  # a list: their weights are not this module's
        for number, host in zip(spec.layers(len(layers)), self.hosts, strict=True):
            mlp = getattr(host, "mlp", None)
            if not isinstance(mlp, nn.Module):
                raise ValueError(f"{type(host).__name__} has no mlp in whose place experts could stand")
            experts = self.layers[str(number)] = ExpertsLayer(spec, mlp)
            self._attach(host, experts, attention_of(host))

    def _attach(self, host: Any, experts: ExpertsLayer, attention: nn.Module) -> None:
        host.mlp = seat = Seat(self, experts)
        # a hook inside the layer, whose own would not run when a checkpointed layer is computed again
        self.handles.append(attention.register_forward_pre_hook(partial(_hand_over, seat), with_kwargs=True))

    def detach(self) -> None:
        """Put the first experts back as the layers' MLPs: what is left is the plain language model."""
        for handle in self.handles:
            handle.remove()
        for host, layer in zip(self.hosts, self.each(), strict=True):
            host.mlp = layer.experts[0]
        self.handles.clear()

    @torch.no_grad()
    def spread(self) -> None:
        """Make all experts of a layer copies of its first."""
        for layer in self.each():
            first, *others = layer.experts
            for other in others:
                other.load_state_dict(first.state_dict())

    def each(self) -> list[ExpertsLayer]:
        """The layers' experts, in order."""
        return [cast(ExpertsLayer, layer) for layer in self.layers.values()]

    def copies(self) -> tuple[str, ...]:
        """Prefixes of what a plain language model has no weights for: experts after the first, and routers."""
        return tuple(
            prefix
            for number, layer in zip(self.layers, self.each(), strict=True)
            for prefix in (
                f"layers.{number}.router.", *(f"layers.{number}.experts.{i}." for i in range(1, len(layer.experts))),
            )
        )  # fmt: skip

    def idle(self) -> tuple[str, ...]:
        """Prefixes of the parameters that the output does not depend on."""
        return self.copies() if self.joined else ()


class Seat(nn.Module):
    """What stands at a layer's `mlp`; it holds no weights, they belong to `RoutedModule`."""

    def __init__(self, owner: RoutedModule, experts: ExpertsLayer) -> None:
        super().__init__()
        self.belongs = owner, experts  # a tuple: their weights would count twice
        self.tree: Tree | None = None
        self.notes: Notes | None = None

    def forward(self, x: Float[Tensor, "rows n dim"]) -> Float[Tensor, "rows n dim"]:
        tree, notes = self.tree, self.notes
        self.tree = self.notes = None
        owner, experts = self.belongs
        if owner.joined:
            return experts.experts[0](x)
        return experts(x.flatten(0, 1), tree, notes).view(x.shape)


def _hand_over(seat: Seat, _: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    seat.tree, seat.notes = options.get("tree"), options.get("notes")


class ExpertsLayer(nn.Module):
    """Router and experts of one layer."""

    def __init__(self, spec: Routed, mlp: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        width = next(m.in_features for m in mlp.modules() if isinstance(m, nn.Linear))
        self.router = nn.Linear(width, spec.experts, bias=False)
        self.experts = nn.ModuleList([mlp, *(copy.deepcopy(mlp) for _ in range(spec.experts - 1))])

    def forward(self, x: Float[Tensor, "n dim"], tree: Tree | None, notes: Notes | None) -> Float[Tensor, "n dim"]:
        """The experts' weighted outputs.

        Args:
            tree: whose documents share their experts' room; without one every position stands alone (decoding).
            notes: where the balance of each document is written to.
        """
        logits = self.logits(x)
        noise = draw(logits, self.spec.chosen) if self.training and self.spec.noise else None
        routing = route(logits, self.spec.chosen, self._rooms(tree), noise)
        if notes is not None and tree is not None and self.spec.balance:
            notes.setdefault(self.spec.loss_name, []).append(balance(logits, routing.first, tree))
        return self.mix(x, routing.weights)

    def logits(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, "n experts"]:
        """In full precision, whatever the rest runs in."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.router.weight.float())

    def mix(self, x: Float[Tensor, "n dim"], weights: Float[Tensor, "n experts"]) -> Float[Tensor, "n dim"]:
        """Each expert on the positions that it has a weight for; one without any still runs, so that ranks agree."""
        out = torch.zeros_like(x)
        for expert, weight in zip(self.experts, weights.unbind(1), strict=True):
            rows = weight.nonzero()[:, 0]
            out = out.index_add(0, rows, (expert(x[rows]) * weight[rows, None]).to(x.dtype))
        return out

    def _rooms(self, tree: Tree | None) -> Rooms | None:
        share = self.spec.capacity if self.training else self.spec.eval_capacity
        if tree is None or share is None or not self.spec.drops(share):
            return None
        if not tree.is_plain:
            raise ValueError(
                f"experts of limited capacity ({share}) read whole documents, but {len(tree.nodes)} nodes share "
                f"{len(tree.spans)} trunks; pack with trees=False, as the backbone says"
            )
        return Rooms(tuple(b - a for a, b in tree.spans), share * self.spec.chosen, self.spec.min_capacity)


@dataclass(frozen=True)
class Rooms:
    """How many positions an expert takes.

    Attributes:
        lengths: of the documents, one after another.
        factor: multiple of an even share that an expert takes of a document's positions.
        least: positions that it takes at least.
    """

    lengths: tuple[int, ...]
    factor: float
    least: int = 0

    def capacity(self, experts: int, device: torch.device) -> Int[Tensor, " documents"]:
        # in single precision, which rounds up where DeepSpeed does
        even = torch.tensor([n / experts for n in self.lengths]) * torch.tensor(self.factor)
        return even.ceil().long().clamp(min=self.least).to(device)


@dataclass(frozen=True)
class Routing:
    """Attributes:
    weights: of each position's experts; 0 for others and where a position was dropped.
    first: the likeliest expert of each position, dropped or not.
    """

    weights: Float[Tensor, "n experts"]
    first: Int[Tensor, " n"]


def route(
    logits: Float[Tensor, "n experts"],
    chosen: int,
    rooms: Rooms | None,
    noise: Float[Tensor, "n experts"] | None = None,
) -> Routing:
    """Choose experts, drop what is over their room, weight the rest.

    Args:
        rooms: None drops nothing.
        noise: of `draw`. None: the likeliest experts are chosen, and what comes first has room.
    """
    probs = F.softmax(logits, dim=1)
    first = probs.argmax(1)
    masks = [F.one_hot(first, logits.shape[1]).bool()]
    left = logits if noise is None else logits + noise
    for _ in range(chosen - 1):
        left = left.masked_fill(masks[-1], float("-inf"))
        masks.append(F.one_hot(left.argmax(1), logits.shape[1]).bool())
    kept = masks if rooms is None else _kept(masks, rooms, noise if chosen == 1 else None)
    weights = probs * torch.stack(kept).any(0)
    if chosen > 1:
        weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).eps)
    return Routing(weights, first)


def _kept(
    masks: list[Bool[Tensor, "n experts"]], rooms: Rooms, urgency: Float[Tensor, "n experts"] | None
) -> list[Bool[Tensor, "n experts"]]:
    """Choices whose place in the queue of their document's expert is within its room, the most urgent in front."""
    lengths = torch.tensor(rooms.lengths, device=masks[0].device)
    room = rooms.capacity(masks[0].shape[1], lengths.device).repeat_interleave(lengths)[:, None]
    kept, before = [], torch.zeros_like(room)
    for mask in masks:
        queues = (mask if urgency is None else mask * urgency).split(rooms.lengths)
        places = torch.cat([q.cumsum(0) - 1 if urgency is None else _ranks(q) for q in queues])
        kept.append(mask & (places + before < room))
        counts = torch.stack([m.sum(0) for m in mask.split(rooms.lengths)])
        before = before + counts.repeat_interleave(lengths, 0)
    return kept


def _ranks(values: Float[Tensor, "n experts"]) -> Int[Tensor, "n experts"]:
    return values.argsort(0, descending=True).argsort(0)


def balance(logits: Float[Tensor, "n experts"], first: Int[Tensor, " n"], tree: Tree) -> Float[Tensor, " documents"]:
    """How unevenly each document uses the experts; 1 is even."""
    count = logits.shape[1]
    used = tree.document_means(F.one_hot(first, count).float())
    return count * (tree.document_means(F.softmax(logits, dim=1)) * used).sum(1)


def draw(like: Float[Tensor, "n experts"], chosen: int) -> Float[Tensor, "n experts"]:
    """Standard Gumbel noise; where one expert is chosen, how urgent each position is, from 0 to 1."""
    return torch.rand_like(like) if chosen == 1 else -torch.empty_like(like).exponential_().log()
