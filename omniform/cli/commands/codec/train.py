"""`omniform codec train`."""

from __future__ import annotations

from omniform.cli import options


def command(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    out: options.RunOut = None,
    device: options.Device = "",
    use_previous: options.UsePrevious = False,
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
