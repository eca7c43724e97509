"""`omniform train`."""

from __future__ import annotations

from omniform.cli import options


def command(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    out: options.RunOut = None,
    device: options.Device = "",
    use_previous: options.UsePrevious = False,
) -> None:
    """Train a recipe.

    The same command goes on with a run that was stopped.
    """
    from omniform.evaluation.runs import evaluations_of
    from omniform.training.recipe import load_recipe
    from omniform.training.run import RECIPE, train

    going_on = recipe.is_dir()
    loaded = load_recipe(recipe / RECIPE if going_on else recipe, overrides or ())
    if loaded.evaluate:
        evaluations_of(loaded)  # a mistake in it is told now, not after the training
    where = out or (recipe if going_on else None)
    result = train(loaded, where, device=device or None, use_previous=use_previous)
    state = result.state
    print(
        f"{result.out}: {state.overall:,} steps, {state.documents:,} documents in {state.seconds:.0f} s, "
        f"last loss {result.loss:.4f}"
    )
