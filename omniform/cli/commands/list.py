"""`omniform list`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from omniform.cli.output import print_json

if TYPE_CHECKING:
    from omniform.catalogue import Entry


def command(
    input_type: Annotated[str, typer.Option(help="A: features enter; B: only discrete tokens.")] = "",
    output_type: Annotated[str, typer.Option(help="1: text; 2: and features; 3: and discrete tokens.")] = "",
    modality: Annotated[str, typer.Option(help="Read or written: image, video, audio, points.")] = "",
    backbone: Annotated[str, typer.Option(help="Part of the language model's name.")] = "",
    connector: Annotated[str, typer.Option(help="Part of the connection's name.")] = "",
    here: Annotated[bool, typer.Option("--here", help="Only systems that are written down in this library.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """List the systems.

    All of the survey's 99 and those beyond, with the stamps that each has earned; a dot marks those that are not
    written down here yet.
    """
    from omniform import catalogue
    from omniform.verify.stamps import recorded

    _check(input_type=input_type.upper(), output_type=output_type, modality=modality.lower())
    chosen = catalogue.Filter(
        input_type=input_type, output_type=output_type, modality=modality, backbone=backbone, connector=connector
    )
    found = [e for e in catalogue.entries() if chosen.passes(e) and (e.here or not here)]
    if json:
        plain = ({**asdict(e), "modalities": sorted(e.modalities)} for e in found)
        print_json([{**e, "stamps": dict(recorded().get(e["slug"], {}))} for e in plain])
    else:
        _table(found)


def _check(input_type: str, output_type: str, modality: str) -> None:
    _one_of("input type", input_type, ("A", "B"))
    _one_of("output type", output_type, ("1", "2", "3"))
    if modality:
        from omniform.spec import MODALITIES

        _one_of("modality", modality, MODALITIES)


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    from omniform.index import unknown

    if value and value not in known:
        raise unknown(what, value, known)


def _table(found: list[Entry]) -> None:
    from omniform.cli.output import print_table
    from omniform.verify.stamps import STAMPS

    columns = ("system", "type", "date", "language model", "encoder", "connection", "decoder", "picture", "stamps")
    print_table(
        columns,
        (
            (e.slug, e.type, e.date, e.backbone, e.encoder, e.connector, e.decoder, e.resolution, _stamps(e))
            for e in found
        ),
        whole=("system", "type", "date", "stamps"),
    )
    here = sum(e.here for e in found)
    letters = ", ".join(f"{name[0].upper()} {name}" for name in STAMPS)
    print(f"\n{len(found)} systems, {here} written down here (the others are marked with a dot). Stamps: {letters}.")


def _stamps(entry: Entry) -> str:
    """One letter for each stamp earned, "-" for each that is not; "." for a system that is not here."""
    from omniform.verify.stamps import STAMPS, recorded

    if not entry.here:
        return "."
    earned = recorded().get(entry.slug, {})
    return "".join(name[0].upper() if earned.get(name) else "-" for name in STAMPS)
