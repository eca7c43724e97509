"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Device: TypeAlias = Annotated[str, typer.Option(help="cpu, cuda ...; by default the accelerator if there is one.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]

# --- training ----------------------------------------------------------------------------------------------------

Recipe: TypeAlias = Annotated[Path, typer.Argument(help="A recipe (YAML), or a run's directory to go on with.")]
Overrides: TypeAlias = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of the recipe, such as seed=3.")
]
RunOut: TypeAlias = Annotated[Path | None, typer.Option(help="Run directory instead of the recipe's.")]
UsePrevious: TypeAlias = Annotated[
    bool, typer.Option("--use-previous", help="Where the newest checkpoint is damaged, take the one before.")
]

# --- measuring ---------------------------------------------------------------------------------------------------

Data: TypeAlias = Annotated[str, typer.Option(help="One of the recipe's datasets, instead of its own choice.")]
ResultsOut: TypeAlias = Annotated[Path | None, typer.Option(help="Where results go; the run's directory.")]
