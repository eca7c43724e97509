"""A codec that learns by itself: `train_codec(recipe)`, with the loop, checkpoints and resume of every training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from omniform.data.datasets import open_datasets
from omniform.data.pool import MediaStep, Pool, PoolLoader
from omniform.training.codec_recipe import CodecPhase, CodecRecipe, load_codec_recipe, resolve_codec_recipe
from omniform.training.freeze import Group, Learning
from omniform.training.plain import RecipeError
from omniform.training.report import Report, console_report
from omniform.training.run import MODEL, RECIPE, carry_out, last_loss
from omniform.training.state import RunState
from omniform.training.step import TrainingError
from omniform.weights.atomic import atomic_directory
from omniform.weights.layout import CheckpointError

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class CodecJob:
    """What the trainer asks (`training.job.Job`).

    Attributes:
        pool: what is learned from.
        identity: what must be the same when a run is resumed: the codec, and how many media there are.
    """

    recipe: CodecRecipe
    model: Any
    pool: Pool
    identity: Mapping[str, Any]

    def loader(self, stage: CodecPhase) -> PoolLoader:
        if not len(self.pool):
            raise TrainingError(f"dataset {stage.data!r} holds no {self.recipe.codec.modality} to learn from")
        order = PoolLoader.batches(self.pool, stage.batch, self.recipe.seed)
        until = int(stage.renew_part * stage.total_steps(order.steps_per_epoch))
        return PoolLoader(self.pool, order, stage.renew, until, stage.on_bad_media)

    def remarks(self, stage: CodecPhase) -> Iterator[str]:
        codec = self.recipe.codec
        yield f"{codec.title}: {codec.num_params():,} parameters, {codec.codes(codec.size)} codes of {codec.codebook}"

    def start(self, stage: CodecPhase) -> Learning:
        self.model.train().requires_grad_(True)
        return Learning((Group(stage.lr, dict(self.model.named_parameters())),), ("codec",))

    def stop(self, stage: CodecPhase, learning: Learning) -> None:
        self.model.eval().requires_grad_(False)

    def accumulate(self, stage: CodecPhase, step: MediaStep, device: torch.device) -> Tensor:
        media = self.model.normalise(step.media.to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            if step.renew:
                self.model.renew(media)
            loss = self._loss(media)
        loss.backward()
        return loss.detach()

    def tensors(self, stages: Sequence[CodecPhase]) -> dict[str, Tensor]:
        return {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}

    @torch.no_grad()
    def culprits(self, loader: PoolLoader, step: int, device: torch.device) -> str:
        numbers = loader.order.at(step)
        media = {n: self.model.normalise(loader.step([n]).media.to(device)) for n in numbers}
        bad = [n for n in numbers if not isfinite(float(self._loss(media[n])))]
        return ", ".join(self.pool.names[n] or f"number {n}" for n in (bad or numbers)[:8])

    def _loss(self, media: Tensor) -> Tensor:
        errors = self.model.errors(media)
        return torch.stack([factor * errors[name] for name, factor in self.recipe.learn.errors.items()]).sum()


@dataclass(frozen=True)
class CodecResult:
    """A complete run; attributes as of `training.run.RunResult`."""

    out: Path
    job: CodecJob
    state: RunState
    loss: float


def train_codec(
    recipe: CodecRecipe,
    out: str | Path | None = None,
    *,
    report: Report | None = None,
    device: str | None = None,
    use_previous: bool = False,
) -> CodecResult:
    """Teach a codec, from where an earlier call was stopped.

    The run directory is as that of `training.run.train`; `model/` holds the codec's weights, from which the codec of a
    system may start (`weights: {image.codec: RUN/model}`).

    Raises: as `training.run.train`.
    """
    folder = Path(out) if out is not None else recipe.out

    def finish(job: CodecJob) -> None:
        if not (folder / MODEL).is_dir():
            with atomic_directory(folder / MODEL) as partial:
                save_file({name: t.cpu() for name, t in job.tensors(()).items()}, partial / WEIGHTS)

    job, state = carry_out(
        folder, recipe, lambda: codec_job(recipe), resolve_codec_recipe, finish, report=report or console_report(),
        device=device, use_previous=use_previous,
    )  # fmt: skip
    return CodecResult(folder, job, state, last_loss(folder))


def codec_job(recipe: CodecRecipe) -> CodecJob:
    """Everything a recipe needs; what is random in it follows from the recipe's seed."""
    pool = Pool.of(open_datasets(recipe.data[recipe.learn.data]), recipe.codec, recipe.views)
    torch.manual_seed(recipe.seed)
    model = recipe.codec.build()
    identity = {
        "the codec's declaration": hashlib.sha256(repr(recipe.codec).encode()).hexdigest(),
        "the number of media in the data": len(pool),
    }
    return CodecJob(recipe, model, pool, identity)


def open_codec(run: str | Path, device: str | torch.device = "cpu") -> tuple[CodecRecipe, Any]:
    """Recipe and module, in evaluation mode, of a run that is complete.

    Raises:
        RecipeError: the directory is not a run.
        CheckpointError: it is not complete, or its weights are damaged.
    """
    folder = Path(run)
    if not (folder / RECIPE).is_file():
        raise RecipeError(f"{folder} is not a run: it has no {RECIPE}; give the directory `omniform codec train` wrote")
    recipe = load_codec_recipe(folder / RECIPE)
    if not (folder / MODEL / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} is not trained to its end; go on with `omniform codec train {folder}`")
    model = recipe.codec.build()
    try:
        model.load_state_dict(load_file(folder / MODEL / WEIGHTS))
    except Exception as error:
        raise CheckpointError(f"{folder / MODEL / WEIGHTS}: damaged or of another codec ({error})") from error
    return recipe, model.to(device).eval().requires_grad_(False)
