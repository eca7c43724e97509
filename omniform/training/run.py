"""A whole run: `train(recipe)` starts it, goes on with it where it was stopped, or says that it is complete.

A run directory holds `recipe.yaml` (resolved), `tokenizer/`, `checkpoints/`, `metrics.jsonl`, `events/`, `loss.png`,
and, when all stages are done, `model/`. The same command on a directory that is there already resumes it; with another
recipe it refuses and says what differs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from omniform.model import Lmm
from omniform.training.checkpoint import Checkpoint, clean, last_checkpoint
from omniform.training.job import Job
from omniform.training.metrics import plot, read_records
from omniform.training.plain import RecipeError, differences, read_yaml
from omniform.training.recipe import HARMLESS, Recipe, load_recipe, resolve_recipe
from omniform.training.report import Report, console_report
from omniform.training.setup import Setup, set_up
from omniform.training.state import RunState
from omniform.training.trainer import Trainer
from omniform.weights import store
from omniform.weights.atomic import atomic_directory
from omniform.weights.layout import CheckpointError

RECIPE, TOKENIZER, MODEL, LOCK = "recipe.yaml", "tokenizer", "model", ".lock"


@dataclass(frozen=True)
class RunResult:
    """A complete run.

    Attributes:
        out: the run directory.
        loss: last recorded loss.
        state: counts: steps, documents, positions, seconds, what was left out.
    """

    out: Path
    setup: Setup
    state: RunState
    loss: float

    @property
    def model(self) -> Lmm:
        return self.setup.model

    @property
    def model_path(self) -> Path:
        return self.out / MODEL


def run_recipe(recipe: Recipe | str | Path, overrides: Iterable[str] = (), **options: Any) -> RunResult:
    """Train a recipe: a `Recipe`, a YAML file, or an existing run directory; `options` and errors as in `train`."""
    if not isinstance(recipe, Recipe):
        path = Path(recipe)
        if path.is_dir():
            options.setdefault("out", path)
            path = path / RECIPE
        recipe = load_recipe(path, overrides)
    return train(recipe, **options)


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    report: Report | None = None,
    device: str | None = None,
    use_previous: bool = False,
) -> RunResult:
    """Run all stages of a recipe, from where an earlier call was stopped.

    Args:
        out: run directory instead of the recipe's.
        report: where progress is shown; the console if not given.
        device: "cpu", "cuda" ...; the accelerator if there is one.
        use_previous: where the newest checkpoint is damaged, go on from the newest that is not.

    Raises:
        RecipeError: the directory holds something else, or a run of another recipe.
        CheckpointError: a checkpoint is damaged or cannot be written.
        TrainingError: a loss or gradient is not finite.
        Stopped: SIGINT or SIGTERM came; a checkpoint was written first.
    """
    folder = Path(out) if out is not None else recipe.out
    report = report or console_report()

    def finish(setup: Setup) -> None:
        if not (folder / MODEL).is_dir():
            store.save(setup.model, folder / MODEL, tokenizer=setup.tokenizer.inner)

    setup, state = carry_out(
        folder, recipe, lambda: _set_up(folder, recipe), resolve_recipe, finish, report=report, device=device,
        use_previous=use_previous,
    )  # fmt: skip
    return RunResult(folder, setup, state, last_loss(folder))


JobT = TypeVar("JobT", bound=Job)


def carry_out(
    folder: Path,
    recipe: Any,
    make: Callable[[], JobT],
    resolve: Callable[[Mapping[str, Any]], Any],
    finish: Callable[[JobT], None],
    *,
    report: Report,
    device: str | None,
    use_previous: bool,
) -> tuple[JobT, RunState]:
    """Claim a run's directory, learn from where an earlier call was stopped, and leave the result there.

    Args:
        make: what learns; called once the directory is claimed.
        resolve: recipe as plain data -> recipe, as that of an earlier call is read.
        finish: writes the result.

    Raises: as `train`.
    """
    with _claimed(folder):
        _claim_recipe(folder, recipe, resolve)
        start = last_checkpoint(folder, previous=use_previous)
        job = make()
        _check_same(start, job, folder)
        if start:
            report.say(f"{folder}: {_place(RunState.of(start.state), recipe)}")
        with _stop_signals() as stopping:
            where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            state = Trainer(job, folder, report, where, stopping).run(start)
        plot(folder)
        finish(job)
        for line in _left_out(state):
            report.say(line)
        return job, state


def last_loss(folder: Path) -> float:
    """The loss of a run's last record; not a number where there is none."""
    records = read_records(folder)
    return records[-1]["loss"] if records else float("nan")


# --- the directory -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Only one process trains in a directory; the lock dies with it."""
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; give the name of a directory for the run")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECIPE).exists() and not (folder / LOCK).exists():
        raise RecipeError(f"{folder} holds other files and no {RECIPE}; give another directory")
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RecipeError(f"another process is training in {folder}; wait for it or give another directory") from error
    finally:
        os.close(lock)


def _claim_recipe(folder: Path, recipe: Any, resolve: Callable[[Mapping[str, Any]], Any]) -> None:
    """Write the resolved recipe, or compare with the one that is there."""
    path = folder / RECIPE
    if path.exists():
        then = resolve(read_yaml(path)).resolved  # defaults that came later are filled in
        before, now = ({k: v for k, v in r.items() if k not in HARMLESS} for r in (then, recipe.resolved))
        lines = list(differences(before, now))
        if lines:
            raise RecipeError(
                f"{folder} is a run of another recipe ({'; '.join(lines)}); give another out, or delete the directory"
            )
    clean(folder)
    beside = path.with_suffix(".partial")
    beside.write_text(recipe.yaml(), encoding="utf-8")
    os.replace(beside, path)


def _set_up(folder: Path, recipe: Recipe) -> Setup:
    own = folder / TOKENIZER
    setup = set_up(recipe, own if own.is_dir() else None)
    if not own.is_dir():
        with atomic_directory(own) as partial:
            setup.tokenizer.save(partial)
    return setup


def _check_same(start: Checkpoint | None, job: Job, folder: Path) -> None:
    if start is None:
        return
    for what, now in job.identity.items():
        before = start.state["identity"].get(what)
        if before != now:
            raise CheckpointError(
                f"{folder}: {what} changed since the run began ({before} before, {now} now); put back the old, "
                "or start a new run"
            )


def _place(state: RunState, recipe: Any) -> str:
    if state.stage == len(recipe.stages):
        return "all stages are done"
    return f"goes on at stage {recipe.stages[state.stage].name!r}, step {state.step}"


def _left_out(state: RunState) -> Iterator[str]:
    if state.skipped_media:
        yield f"{state.skipped_media} documents left out for media that cannot be read; the last: {state.last_problem}"
    if state.truncated:
        yield f"{state.truncated} documents lost words because they were longer than max_positions"
    if state.empty_steps:
        yield f"{state.empty_steps} steps had nothing to learn and changed nothing"


# --- signals -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM become a wish that the trainer asks for after each step; a second SIGINT acts at once."""
    wished = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wished.is_set
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def wish(number: int, _frame: Any) -> None:
        wished.set()
        if number == signal.SIGINT:  # not SIGTERM: `timeout` and schedulers send it twice
            signal.signal(number, before[signal.SIGINT])

    for number in before:
        signal.signal(number, wish)
    try:
        yield wished.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
