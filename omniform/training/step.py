"""One optimizer step: the gradient of its documents, however many packed batches they take."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from omniform.data.loader import Loader, Step
from omniform.model import Lmm


class TrainingError(RuntimeError):
    """A run that cannot go on; the message names stage, step and documents."""


def accumulate(model: Lmm, step: Step, precision: str, device: torch.device, outputs: Collection[str] = ()) -> Tensor:
    """Add the gradient of a step's mean loss to the parameters; gives that loss.

    Every packed batch counts by its share of the step's learned tokens, of the codes told along with them, of the
    media regressed, or of its documents where the loss is one of the backbone's own, so the gradient is that of the
    undivided step.

    Args:
        outputs: those whose losses count; () is all.
    """
    said = model.system.outputs
    factors = {n: f for n, f in model.system.loss_weights.items() if n not in said or not outputs or n in outputs}
    shares = {n: step.share(n, said[n].form) if n in said else step.documents for n in factors}
    mean = torch.zeros((), device=device)
    for batch in step.micro:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            losses = model(batch.to(device), outputs)
        loss = torch.stack([factors[m] * loss.total / shares[m] for m, loss in losses.items()]).sum()
        loss.backward()
        mean += loss.detach()
    return mean


def seed_step(seed: int, stage: int, step: int) -> None:
    """Make the randomness of a step (dropout ...) a function of the run's seed, its stage and its step.

    So nothing random has to be saved for an exact resume. Step -1 is the start of a stage.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, stage, step + 1)).generate_state(1)[0]))


def culprits(model: Lmm, loader: Loader, numbers: Sequence[int], precision: str, device: torch.device) -> str:
    """Names of the documents whose own loss is not finite; of all, where none or every one is such."""
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        bad = [n for n in numbers if not all(map(math.isfinite, _losses(model, loader, n, device)))]
    named = [loader.dataset[n].id or f"number {n}" for n in bad or numbers]
    return ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")


def _losses(model: Lmm, loader: Loader, number: int, device: torch.device) -> Iterator[float]:
    for batch in loader.step([number]).micro:
        losses: Mapping[str, object] = model(batch.to(device))
        yield from (float(loss.total) for loss in losses.values())  # type: ignore[attr-defined]
