"""`omniform verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from omniform.verify.check import Check


def command(
    system: Annotated[str, typer.Argument(help="Name of a system.", show_default=False)] = "",
    all_: Annotated[bool, typer.Option("--all", help="Every system that is written down here.")] = False,
    stamps: Annotated[str, typer.Option(help="Only these, such as row,build.", show_default=False)] = "",
    goldens: Annotated[
        Path | None, typer.Option(help="Golden files; by default those of a source checkout.", show_default=False)
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Keep the stamps for the catalogue.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of lines.")] = False,
) -> None:
    """Check a system against its source.

    Six stamps: row (the survey's description), build (parameter counts at full size), layout (released keys and
    shapes), parity (the original's numbers), train (its stages on real pictures), generate (deterministic, batched
    equals single). Exit code 1 when one fails.
    """
    from omniform import index
    from omniform.verify.check import Context, verify

    _check(system, all_, record, stamps)
    names = index.names("systems") if all_ else (system,)
    context = Context(goldens)
    checks: list[Check] = []
    for name in names:
        for check in verify(index.system(name), _stamps(stamps), context):
            checks.append(check)
            if not json:
                _say(check)
    if json:
        from omniform.cli.output import print_json

        print_json([vars(check) for check in checks])
    if record:
        _record(checks)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


def _check(system: str, all_: bool, record: bool, stamps: str) -> None:
    if bool(system) == all_:
        raise typer.BadParameter("name one system, or give --all")
    if record and stamps:
        raise typer.BadParameter("--record keeps all six stamps of a system; leave out --stamps")


def _stamps(given: str) -> tuple[str, ...]:
    from omniform.index import unknown
    from omniform.verify.stamps import STAMPS

    chosen = tuple(name.strip() for name in given.split(",") if name.strip()) or STAMPS
    for name in chosen:
        if name not in STAMPS:
            raise unknown("stamp", name, STAMPS)
    return chosen


def _say(check: Check) -> None:
    mark = "passed" if check.passed else "FAILED"
    print(f"{check.system}  {check.stamp:<8}  {mark}  {check.detail}  ({check.seconds:.1f} s)", flush=True)


def _record(checks: list[Check]) -> None:
    """Put the checked systems' stamps among those of the systems that are here."""
    from omniform import index
    from omniform.verify import stamps

    found = {slug: dict(kept) for slug, kept in stamps.recorded().items() if slug in index.names("systems")}
    for check in checks:
        found.setdefault(check.system, {})[check.stamp] = check.passed
    stamps.path().write_text(stamps.text_of(found), encoding="utf-8")
