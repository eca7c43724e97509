"""`omniform export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[str, typer.Argument(help="A run, or a folder with a saved model.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to write.", show_default=False)],
) -> None:
    """Write a model in the form that transformers loads.

    The folder opens with transformers' own classes, with the same computation inside.
    """
    from omniform.data.tokenizer import HfTokenizer
    from omniform.evaluation.runs import RunError, refuse_other_files
    from omniform.inference.load import open_model
    from omniform.weights.export import export_transformers

    refuse_other_files(folder, "config.json")
    engine = open_model(run, device="cpu")
    tokenizer = engine.processor.tokenizer
    if not isinstance(tokenizer, HfTokenizer):
        raise RunError(f"{run}: its tokenizer is not one of transformers, so that a folder for it cannot be written")
    export_transformers(engine.model, tokenizer.inner, folder)
    print(f"{folder}: {engine.model.system.title} for transformers")
