"""The entry point `omniform`: finds the commands, runs one, and turns errors into one sentence."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Annotated

import typer

from omniform import __version__
from omniform.cli.errors import explain

ORDER = ("list", "show", "cost", "train", "eval", "generate", "chat", "verify", "export")
"""How `--help` lists the commands; those it does not name come last."""
COMMANDS = "omniform.cli.commands"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"omniform {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; any command takes it.")
    ] = False,
) -> None:
    """Large multimodal models as data: list, cost, train, measure, talk to."""


def commands() -> list[str]:
    """Names of the commands: the files of `cli/commands`; a folder there is a group of commands."""
    return [info.name for info in _members(COMMANDS)]


def _members(package: str) -> list[pkgutil.ModuleInfo]:
    found = list(pkgutil.iter_modules(importlib.import_module(package).__path__))
    return sorted(found, key=_place)


def _place(info: pkgutil.ModuleInfo) -> tuple[bool, int, str]:
    """Groups come last, as `--help` has it."""
    return info.ispkg, ORDER.index(info.name) if info.name in ORDER else len(ORDER), info.name


def build() -> typer.Typer:
    """The whole command line. Only the commands' signatures are read here; no torch."""
    made = _group(COMMANDS)
    made.callback()(options)
    return made


def _group(package: str) -> typer.Typer:
    made = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    for info in _members(package):
        module = importlib.import_module(f"{package}.{info.name}")
        if info.ispkg:
            made.add_typer(_group(module.__name__), name=info.name, help=module.__doc__)
        else:
            made.command(info.name, help=module.command.__doc__)(module.command)
    return made


def app(arguments: list[str] | None = None) -> None:
    """Run the command line on `arguments`, or on the process's own."""
    given = sys.argv[1:] if arguments is None else arguments
    words = [word for word in given if word != "--debug"]
    try:
        build()(args=words, prog_name="omniform")
    except Exception as error:
        if len(words) < len(given):
            raise
        sys.exit(explain(error))


if __name__ == "__main__":
    app()
