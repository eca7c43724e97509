"""`omniform show`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from omniform.geometry import MediaSize, Plan
    from omniform.spec import Stage, System

SIZES = ((336, 336), (640, 480), (1024, 768), (800, 2000))
"""(width, height) of the pictures whose positions are shown."""
SECONDS = (1, 10, 30, 95)
"""Lengths of the sounds whose positions are shown."""
RATE = 16000
MOST = 8
"""Items of a list that are shown."""


def command(
    system: Annotated[str, typer.Argument(help="Name of a system, or name:variant.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="JSON: the whole declaration.")] = False,
) -> None:
    """Show one system: parts, prompt, stages, variants, source."""
    from omniform import index, survey

    slug = system.partition(":")[0]
    if slug in survey.by_slug() and not index.is_here(slug):
        _not_here(survey.row(slug), json)
    elif json:
        from omniform import serial

        print(serial.dumps(index.system(system)), end="")
    else:
        _show(index.system(system), slug)


def _not_here(row: Any, json: bool) -> None:
    from omniform.cli.output import print_json, print_pairs

    if json:
        print_json({"here": False, **vars(row)})
        return
    print(f"{row.slug} is not written down here yet. The survey says:\n")
    print_pairs({name.replace("_", " "): value for name, value in vars(row).items() if value})


def _show(system: System, slug: str) -> None:
    from omniform.cli.output import print_pairs

    print(f"{system.title} ({slug}), {system.input_type}{system.output_type}, {system.date}")
    blocks = {
        "Source": _source(system), "Inputs": dict(_inputs(system)), "Parameters": _parameters(system),
        "Positions of a picture": _positions(system, "image"), "Positions of a sound": _positions(system, "audio"),
        "Prompt": _fields(system.prompt),
        "Stages": {stage.name: _stage(stage) for stage in system.stages},
        "Variants": {name: ", ".join(paths) for name, paths in system.variants.items()},
        "Differs from the survey": dict(system.survey_notes), "Stamps": _stamps(slug),
    }  # fmt: skip
    for name, pairs in blocks.items():
        if pairs:
            print(f"\n{name}")
            print_pairs(pairs, indent=2)


def _source(system: System) -> dict[str, str]:
    source = system.source
    return {k: v for k, v in {"paper": source.paper, "code": source.code, "notes": source.notes}.items() if v}


def _inputs(system: System) -> Iterator[tuple[str, str]]:
    from omniform.spec import Continuous, Shared

    for modality, entry in system.inputs.items():
        if isinstance(entry, Continuous):
            yield modality, f"{entry.encoder.title} -> {entry.connector.title} -> {system.backbone.title}"
            for part in ("encoder", "connector", "views", "fusion"):
                yield f"  {part}", brief(getattr(entry, part))
        elif isinstance(entry, Shared):
            own = f"encoder {brief(entry.encoder)}, " if entry.encoder else ""
            yield modality, f"as {entry.input}, {own}views {brief(entry.views)}"
        else:
            yield modality, brief(entry.codec)
    yield "backbone", brief(system.backbone)
    yield from ((f"{modality} out", brief(decoder)) for modality, decoder in system.outputs.items())


def _parameters(system: System) -> dict[str, str]:
    from omniform.cli.output import count
    from omniform.cost import parameters

    found = parameters(system)
    return {part: count(number) for part, number in [*found.items(), ("total", sum(found.values()))]}


def _positions(system: System, modality: str) -> dict[str, str]:
    from omniform.geometry import MediaSize

    if modality not in system.inputs:
        return {}
    sizes = {f"{w} x {h}": MediaSize(width=w, height=h) for w, h in SIZES}
    if modality == "audio":
        sizes = {f"{s} s": MediaSize(samples=s * RATE, rate=RATE) for s in SECONDS}
    plans = {name: system.plan(modality, size) for name, size in sizes.items()}
    return {name: _taken(system, modality, sizes[name], plan) for name, plan in plans.items()}


def _taken(system: System, modality: str, size: MediaSize, plan: Plan) -> str:
    from omniform.cli.output import taken
    from omniform.cost.report import heard

    seconds = size.seconds if size.samples else 0.0
    return taken(system.read(modality).positions(plan), len(plan.views), seconds, heard(size, plan))


def _stage(stage: Stage) -> str:
    from omniform.spec import Undisclosed

    def known(value: Any) -> str:
        return "undisclosed" if isinstance(value, Undisclosed) else f"{value}"

    learns = [f"{item.part}{_of(item.tokens)} {known(item.lr)}" for item in stage.learn]
    learns += [f"{stage.lora.part} by LoRA of rank {stage.lora.rank} {stage.lora.lr}"] if stage.lora else []
    length = f"steps {stage.steps:,}" if stage.steps else f"epochs {known(stage.epochs)}"
    return f"learns {', '.join(learns)}; {stage.data}, batch {known(stage.batch)}, {length}, {known(stage.schedule)}"


def _of(tokens: tuple[str, ...]) -> str:
    return f" (embeddings of {', '.join(tokens)})" if tokens else ""


def _stamps(slug: str) -> dict[str, str]:
    from omniform.verify.stamps import recorded

    return {name: "earned" if earned else "not earned" for name, earned in recorded().get(slug, {}).items()}


def _fields(data: Any) -> dict[str, str]:
    return {name: repr(value) for name, value in _set(data).items()}


def brief(data: Any) -> str:
    """A declaration with the fields that differ from their defaults."""
    inside = ", ".join(f"{name}={_value(value)}" for name, value in _set(data).items())
    return f"{type(data).__name__}({inside})"


def _value(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > MOST:
        return f"({', '.join(map(_value, value[:3]))} ... {len(value)} in all)"
    if isinstance(value, tuple) and any(is_dataclass(item) for item in value):
        return f"({', '.join(brief(item) for item in value)})"
    return brief(value) if is_dataclass(value) and not isinstance(value, type) else repr(value)


def _set(data: Any) -> Mapping[str, Any]:
    values = {f.name: (getattr(data, f.name), f.default) for f in fields(data) if f.repr}
    return {name: value for name, (value, default) in values.items() if default is MISSING or value != default}
