"""The training loop: one for all systems, and for codecs alone. It names no system, no modality and no loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from omniform.training.checkpoint import Checkpoint, write_checkpoint
from omniform.training.freeze import Learning
from omniform.training.job import Job, Prepared
from omniform.training.metrics import Metrics, Record
from omniform.training.optimizer import make_optimizer, optimizer_tensors, restore_optimizer, set_lr
from omniform.training.phase import Phase
from omniform.training.report import Report
from omniform.training.schedule import factor
from omniform.training.state import RunState, Window, restore_tensors
from omniform.training.step import TrainingError, seed_step

SETTLE_AFTER = 16
"""Steps whose losses may wait on an accelerator before they are read, so that it is not held up."""


class Trainer:
    """Runs the stages of one recipe.

    Attributes:
        state: what is done.
        stopping: asked after every step; where it says so, a checkpoint is written and `Stopped` raised.
    """

    def __init__(
        self, job: Job, folder: Path, report: Report, device: torch.device,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self.job = job
        self.recipe = job.recipe
        job.model.to(device)
        self.folder = folder
        self.report = report
        self.device = device
        self.stopping = stopping
        self.state = RunState()

    def run(self, start: Checkpoint | None) -> RunState:
        """All stages from a checkpoint on, or from the beginning.

        Raises:
            TrainingError: a loss or gradient is not finite.
            CheckpointError: a checkpoint cannot be written, or does not fit the model.
            Stopped: `stopping` said so.
        """
        if start:
            self.state = RunState.of(start.state)
            if not self.state.step:
                self._restore(start)
        while self.state.stage < len(self.recipe.stages):
            resumed = start if start and self.state.step else None
            _StageLoop(self, self.recipe.stages[self.state.stage], resumed).run()
        return self.state

    def tensors(self) -> dict[str, Tensor]:
        """What has to be saved of the model as it is now."""
        ran = self.state.stage + (self.state.step > 0)
        return self.job.tensors(self.recipe.stages[:ran])

    def _restore(self, start: Checkpoint) -> None:
        restore_tensors(start.model, self.tensors())

    def checkpoint(self, optimizer: dict[str, Tensor]) -> None:
        state = {**self.state.plain(), "identity": dict(self.job.identity)}
        content = Checkpoint(self.tensors(), optimizer, state)
        keep = self.recipe.checkpoint.keep_last
        write_checkpoint(self.folder, self.state.stage, self.state.step, content, keep)


class Stopped(RuntimeError):
    """The run was asked to stop; a checkpoint of its last step is there."""


class _StageLoop:
    """One stage of a run: freeze, step, record, save, merge."""

    def __init__(self, trainer: Trainer, stage: Phase, resumed: Checkpoint | None) -> None:
        self.trainer, self.stage = trainer, stage
        self.job, self.recipe, self.state = trainer.job, trainer.recipe, trainer.state
        self.loader = self.job.loader(stage)
        self.total = stage.total_steps(self.loader.steps_per_epoch)
        seed_step(self.recipe.seed, self.state.stage, -1)
        self.learning: Learning = self.job.start(stage)
        self.parameters = self.learning.parameters
        self.optimizer = make_optimizer(self.learning, stage.weight_decay)
        if resumed:
            restore_tensors(resumed.model, trainer.tensors())
            restore_optimizer(self.optimizer, self.parameters, resumed.optimizer)
        self.waiting: list[tuple[int, Tensor, Tensor]] = []
        self.saved_at = self.clock = time.monotonic()

    def run(self) -> None:
        state, report = self.state, self.trainer.report
        self.metrics = Metrics(self.trainer.folder, state.stage, state.step, state.overall)
        for remark in self.job.remarks(self.stage):
            report.say(remark)
        report.start(self.stage.name, state.step, self.total)
        steps = self.loader.steps(state.step, self.total)
        try:
            for step in steps:
                self._step(step)
                report.advance(state.step)
                self._record_and_save()
        finally:
            steps.close()
            report.stop()
            self.metrics.close()
        self.job.stop(self.stage, self.learning)
        state.stage, state.step = state.stage + 1, 0
        self.trainer.checkpoint({})
        if self.trainer.stopping() and state.stage < len(self.recipe.stages):
            raise Stopped(f"stopped after stage {self.stage.name!r}; the same command goes on with the next")

    def _step(self, step: Prepared) -> None:
        state = self.state
        if step.weight > 0:
            seed_step(self.recipe.seed, state.stage, state.step)
            loss = self.job.accumulate(self.stage, step, self.trainer.device)
            norm = torch.nn.utils.clip_grad_norm_(
                self.parameters.values(), self.stage.clip_norm or math.inf, foreach=True
            )
            self.waiting.append((state.step, loss, norm))
            if self.trainer.device.type == "cpu" or len(self.waiting) >= SETTLE_AFTER:
                self._settle()
            set_lr(self.optimizer, factor(self.stage.schedule, state.step, self.total, self.stage.warmup))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        else:
            state.empty_steps += 1
        self._count(step)

    def _count(self, step: Prepared) -> None:
        state, now = self.state, time.monotonic()
        spent, self.clock = now - self.clock, now
        state.step += 1
        state.overall += 1
        state.skipped_media += step.skipped_media
        state.truncated += step.truncated
        state.last_problem = step.problem or state.last_problem
        for sums in (state, state.window):
            sums.documents += step.documents
            sums.positions += step.positions
            sums.seconds += spent

    def _settle(self) -> None:
        """Read the losses that wait.

        Raises:
            TrainingError: one of them, or its gradient, is not finite.
        """
        window = self.state.window
        for number, loss, norm in self.waiting:
            values = loss.item(), norm.item()
            if not all(map(math.isfinite, values)):
                raise self._not_finite(number, *values)
            window.steps += 1
            window.loss += values[0]
            window.grad_norm += values[1]
        self.waiting.clear()

    def _not_finite(self, number: int, loss: float, norm: float) -> TrainingError:
        names = self.job.culprits(self.loader, number, self.trainer.device)
        what = f"loss is {loss}" if not math.isfinite(loss) else f"norm of the gradient is {norm} (loss {loss:.4g})"
        return TrainingError(
            f"stage {self.stage.name!r}, step {number}: the {what}; documents: {names}. No checkpoint holds this step. "
            "Look at these documents, lower the learning rate, or lower clip_norm"
        )

    def _record_and_save(self) -> None:
        state, every = self.state, self.recipe.checkpoint
        ends, stopping = state.step == self.total, self.trainer.stopping()
        late = every.seconds is not None and self.clock - self.saved_at >= every.seconds
        saves = not ends and (late or stopping or (every.steps is not None and state.step % every.steps == 0))
        if ends or saves or state.step % self.recipe.log_every == 0:
            self._settle()
        if ends or state.step % self.recipe.log_every == 0:
            self._record()
        if saves:
            self.trainer.checkpoint(optimizer_tensors(self.optimizer, self.parameters))
            self.saved_at = time.monotonic()
        if stopping and not ends:
            raise Stopped(
                f"stopped after step {state.step} of stage {self.stage.name!r}; the same command goes on there"
            )

    def _record(self) -> None:
        state, window = self.state, self.state.window
        state.window = Window()
        if not window.steps:
            return
        seconds = max(window.seconds, 1e-9)
        record = Record(
            stage=self.stage.name, number=state.stage, step=state.step, overall=state.overall,
            loss=window.loss / window.steps, grad_norm=window.grad_norm / window.steps,
            lr=max(group["lr"] for group in self.optimizer.param_groups),
            documents=state.documents, positions=state.positions, seconds=state.seconds,
            documents_per_s=window.documents / seconds, positions_per_s=window.positions / seconds,
        )  # fmt: skip
        self.metrics.write(record)
        self.trainer.report.show(record)
