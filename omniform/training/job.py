"""What the trainer's loop asks of that which learns: a model of parts (`training.setup`), or a codec alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from omniform.training.freeze import Learning


class Prepared(Protocol):
    """What one optimizer step reads."""

    @property
    def documents(self) -> int: ...
    @property
    def positions(self) -> int: ...
    @property
    def weight(self) -> float:
        """0 where there is nothing to learn."""
        ...

    @property
    def skipped_media(self) -> int: ...
    @property
    def truncated(self) -> int: ...
    @property
    def problem(self) -> str: ...


class Job(Protocol):
    """Something that learns in phases.

    Attributes:
        identity: what must be the same when a run is resumed.
    """

    @property
    def recipe(self) -> Any: ...
    @property
    def model(self) -> nn.Module: ...
    @property
    def identity(self) -> Mapping[str, Any]: ...

    def loader(self, stage: Any) -> Any:
        """What gives the steps of a phase (`steps(start, stop)`), in an order that is a function of the seed.

        Raises:
            TrainingError: there is nothing to learn from.
        """
        ...

    def remarks(self, stage: Any) -> Iterator[str]:
        """What is worth knowing before a phase begins."""
        ...

    def start(self, stage: Any) -> Learning:
        """Make what a phase teaches learn, and nothing else."""
        ...

    def stop(self, stage: Any, learning: Learning) -> None:
        """End a phase: nothing learns."""
        ...

    def accumulate(self, stage: Any, step: Any, device: torch.device) -> Tensor:
        """Add the gradient of a step's mean loss to the parameters; gives that loss."""
        ...

    def tensors(self, stages: Sequence[Any]) -> dict[str, Tensor]:
        """What has to be saved of the model when these phases have begun."""
        ...

    def culprits(self, loader: Any, step: int, device: torch.device) -> str:
        """Names of the documents of a step whose loss is not finite."""
        ...
