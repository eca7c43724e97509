"""MLPs among which a router chooses for each position (GShard, arXiv:2006.16668 algorithm 1, as DeepSpeed has it).

microsoft/DeepSpeed@v0.9.5 deepspeed/moe/sharded_moe.py:155-345. What that code does with all tokens of a batch, padding
included, is done here with the positions of each document, so that no document's result depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.routing import Experts


@dataclass(frozen=True, kw_only=True)
class Routed(Experts):
    """Copies of the backbone's MLP, of which each position passes some, in the first layer and every n-th after it.

    Probabilities are a softmax over all experts. A position's first expert is the likeliest, the others are the
    likeliest that are left. An expert takes `capacity * chosen / experts` of a document's positions, rounded up: first
    choices in the order of the positions, then second ones. What is over is dropped: it adds nothing to the residual
    stream. Where several are chosen, the weights of those that were not dropped sum to 1; a single one keeps its
    probability as its weight.

    Attributes:
        experts, chosen: experts of a layer; experts that a position passes through.
        every: distance of the layers that have experts.
        capacity, eval_capacity: positions that an expert takes, as a multiple of an even share, in training and
            otherwise; None drops nothing.
        min_capacity: positions that an expert takes at least.
        noise: whether training is random: Gumbel noise where the further experts are chosen; where only one is, which
            of too many positions are dropped. DeepSpeed's answers are random too; here they are the same every time.
        balance: factor of the loss that keeps experts evenly used (equation 4): experts * sum over them of mean
            probability * share of the first choices, for each document, summed over layers.
    """

    implementation = "omniform.experts.routed_module:RoutedModule"
    loss_name: ClassVar[str] = "balance"

    experts: int = 4
    chosen: int = 2
    every: int = 2
    capacity: float | None = 1.5
    eval_capacity: float | None = 2.0
    min_capacity: int = 0
    noise: bool = True
    balance: float = 0.01

    def __post_init__(self) -> None:
        if not 1 <= self.chosen <= self.experts:
            raise SpecError(f"{self.chosen} of {self.experts} experts are chosen; choose at least 1 and at most all")
        if self.every < 1:
            raise SpecError(f"experts in every {self.every}th layer; 1 is every layer, 2 every other")

    @property
    def trees(self) -> bool:
        """Only where nothing is dropped: whether an expert has room depends on all positions of a document."""
        return not self.drops(self.eval_capacity)

    @property
    def trees_in_training(self) -> bool:
        return not self.drops(self.capacity)

    def drops(self, capacity: float | None) -> bool:
        """Whether one expert has no room for all positions."""
        return capacity is not None and capacity * self.chosen < self.experts

    @property
    def losses(self) -> Mapping[str, float]:
        return FrozenMap({self.loss_name: self.balance} if self.balance else {})

    def layers(self, count: int) -> tuple[int, ...]:
        return tuple(range(0, count, self.every))

    def further_params(self, dim: int, mlp_params: int) -> int:
        return (self.experts - 1) * mlp_params + self.experts * dim

    def further_weights(self, dim: int, mlp_weights: int) -> int:
        return (self.chosen - 1) * mlp_weights + self.experts * dim

    def idle_params(self, mlp_params: int) -> int:
        return (self.experts - self.chosen) * mlp_params

    @property
    def passed(self) -> int:
        return self.chosen

    def further_linears(self, dim: int, mlp: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [*mlp * (self.experts - 1), (dim, self.experts)]
