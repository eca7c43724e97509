"""`omniform codec train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML), or a run's directory to go on with.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as learn.batch=16.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory instead of the recipe's.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda ...; by default the accelerator if there is one.")] = "",
    use_previous: Annotated[
        bool, typer.Option("--use-previous", help="Where the newest checkpoint is damaged, take the one before.")
    ] = False,
) -> None:
    """Train a codec on the media of a dataset.

    The same command goes on with a run that was stopped. Where the recipe says what to evaluate on, report.html shows
    what came of it.
    """
    from omniform.cli.commands.codec.reconstruct import measure_run
    from omniform.training.codec import train_codec
    from omniform.training.codec_recipe import load_codec_recipe
    from omniform.training.run import RECIPE

    going_on = recipe.is_dir()
    loaded = load_codec_recipe(recipe / RECIPE if going_on else recipe, overrides or ())
    result = train_codec(
        loaded, out or (recipe if going_on else None), device=device or None, use_previous=use_previous
    )
    state = result.state
    print(
        f"{result.out}: {state.overall:,} steps, {state.documents:,} media in {state.seconds:.0f} s, "
        f"last loss {result.loss:.4f}"
    )
    if loaded.evaluate:
        measure_run(result.out, "", None, result.out, device)
