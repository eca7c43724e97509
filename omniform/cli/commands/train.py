"""`omniform train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML), or a run's directory to go on with.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as stages.finetune.batch=16.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory instead of the recipe's.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda ...; by default the accelerator if there is one.")] = "",
    use_previous: Annotated[
        bool, typer.Option("--use-previous", help="Where the newest checkpoint is damaged, take the one before.")
    ] = False,
) -> None:
    """Train a recipe.

    The same command goes on with a run that was stopped.
    """
    from omniform.evaluation.runs import EvaluationSettings
    from omniform.training.recipe import load_recipe
    from omniform.training.run import RECIPE, train

    going_on = recipe.is_dir()
    loaded = load_recipe(recipe / RECIPE if going_on else recipe, overrides or ())
    if loaded.evaluate:
        EvaluationSettings.of(loaded.evaluate)  # a mistake in it is told now, not after the training
    where = out or (recipe if going_on else None)
    result = train(loaded, where, device=device or None, use_previous=use_previous)
    state = result.state
    print(
        f"{result.out}: {state.overall:,} steps, {state.documents:,} documents in {state.seconds:.0f} s, "
        f"last loss {result.loss:.4f}"
    )
