"""Stamp "train": every stage, at `tiny` size on real pictures, moves exactly the parts it names, and its loss falls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from omniform.data.loader import Step
from omniform.model import Lmm
from omniform.spec import Stage, System
from omniform.training.freeze import taught
from omniform.training.report import Quiet
from omniform.training.setup import set_up, stage_loader
from omniform.training.trainer import Trainer
from omniform.verify.check import Context, Failed
from omniform.verify.small import DOCUMENTS, STEPS, modality_of, small_recipe


def check(system: System, context: Context) -> str:
    """Run each stage alone, from the same random weights.

    Raises:
        Failed: a parameter moved that should not have, one did not that should, or the loss did not fall.
    """
    said = []
    for stage in system.stages:
        with TemporaryDirectory(prefix="omniform-") as folder:
            said.append(f"{stage.name}: {_run(system, stage, Path(folder))}")
    return "; ".join(said)


def _run(system: System, stage: Stage, folder: Path) -> str:
    setup = set_up(small_recipe(system, (stage,), folder))
    step = stage_loader(setup, setup.recipe.stages[0]).step(range(DOCUMENTS))
    first = loss_of(setup.model, step, stage.outputs)
    before = {name: p.detach().clone() for name, p in setup.model.named_parameters()}
    Trainer(setup, folder, Quiet(), torch.device("cpu")).run(None)
    learning = taught(setup.model, setup.recipe.stages[0], (modality_of(system),))
    moved = {name for name, p in setup.model.named_parameters() if not torch.equal(before[name], p)}
    if moved != learning:
        wrong, idle = _few(moved - learning), _few(learning - moved)
        raise Failed(f"stage {stage.name}: {wrong} moved but are not to learn; {idle} are to learn but did not move")
    last = loss_of(setup.model, step, stage.outputs)
    if not last < first:
        raise Failed(f"stage {stage.name}: the loss went from {first:.3f} to {last:.3f} in {STEPS} steps")
    return f"{len(moved)} of {len(before)} tensors moved, loss {first:.3f} to {last:.3f}"


@torch.no_grad()
def loss_of(model: Lmm, step: Step, outputs: Sequence[str] = ()) -> float:
    """Weighted sum of the mean losses of outputs (all, without names) over some documents; the same ones before and
    after, as few steps may change little."""
    model.eval()
    found = [model(batch, outputs) for batch in step.micro]
    said, weights = model.system.outputs, model.system.loss_weights
    shares = {name: step.share(name, said[name].form) / weights[name] for name in outputs or said}
    return float(sum(losses[name].total / share for losses in found for name, share in shares.items()))


def _few(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return f"{len(names)} parameters ({', '.join(shown)}{', ...' if len(names) > 3 else ''})" if names else "none"
