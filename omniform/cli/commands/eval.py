"""`omniform eval`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omniform.cli import options

if TYPE_CHECKING:
    from omniform.evaluation.measure import Measured
    from omniform.evaluation.runs import EvaluationSettings, Run


def command(
    run: Annotated[Path, typer.Argument(help="Directory of a run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes of data and evaluate, such as evaluate.top_k=50."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="One of the recipe's evaluations by name; may be given again.")
    ] = None,
    data: options.Data = "",
    metric: Annotated[str, typer.Option(help="How answers are compared, instead of the recipe's choice.")] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many questions.", show_default=False)
    ] = None,
    judge: Annotated[
        str, typer.Option(help="Run that puts media in answers into words, instead of the recipe's.")
    ] = "",
    out: options.ResultsOut = None,
    report: Annotated[bool, typer.Option("--report", help="Also write report.html.")] = False,
    examples: Annotated[int, typer.Option(min=0, help="Print so many answers.")] = 0,
    device: options.Device = "",
    json: options.Json = False,
) -> None:
    """Measure a run.

    Writes predictions.jsonl and evaluation.json, of several evaluations each in a directory of its name.
    """
    from omniform.cli.output import print_json
    from omniform.evaluation.runs import Run, evaluations_of

    opened = Run(run, tuple(overrides or ()))
    given = {"data": data, "metric": metric, "limit": limit, "judge": judge}
    changes = {k: v for k, v in given.items() if v}
    chosen = evaluations_of(opened.recipe, changes, only or ())
    written, folder = [], out or run
    measured = _measured(opened, chosen, device or None, folder / "report.html" if report else None)
    for one in measured:
        one.found.save(folder / one.name)
        written.append(folder / one.name / "predictions.jsonl")
    if json:
        found = {one.name: one.found.summary() for one in measured}
        print_json(found.get("", found))
    else:
        for one in measured:
            _say(one)
            _examples(one, examples)
        print(f"\n{', '.join(map(str, [*written, *([folder / 'report.html'] if report else [])]))}")


def _measured(
    run: Run, chosen: Mapping[str, EvaluationSettings], device: str | None, report: Path | None
) -> list[Measured]:
    """Every evaluation, one after the other; the page of all of them where `report` says."""
    from omniform.cli.progress import progress
    from omniform.evaluation.evaluation import write_whole
    from omniform.evaluation.measure import measure
    from omniform.evaluation.run_report import run_report
    from omniform.inference.load import open_model

    datasets = {name: run.dataset(settings.data) for name, settings in chosen.items()}
    engine = open_model(run.folder, device=device)
    judges = {judge: open_model(judge, device=device) for judge in {s.judge for s in chosen.values() if s.judge}}
    measured = []
    for name, settings in chosen.items():
        with progress(f"asking {settings.data}", "answers") as show:
            judge = judges.get(settings.judge)
            measured.append(measure(name, settings, datasets[name], engine, judge, show))
    if report:
        write_whole(report, run_report(run, engine, measured).html())
    return measured


def _say(measured: Measured) -> None:
    from omniform.cli.output import print_table
    from omniform.evaluation.report import percent

    found = measured.found
    columns = ["questions", "right", "of", found.metric.replace("_", " ")]
    rows = [
        [kind or "(no type)", f"{t.right:,}", f"{t.count:,}", percent(t.score.ratio)]
        for kind, t in [*found.by_type.items(), ("all", found.overall)]
    ]
    if found.real:
        columns.append("of real ones")
        for row, tally in zip(rows, [*found.real.by_type.values(), found.real.overall], strict=True):
            row.append(percent(tally.score.ratio))
    if measured.name:
        print(f"\n{measured.name}")
    print_table(columns, rows, right=columns[1:])
    if found.real:
        print(f"of real ones: what {measured.settings.judge}, the judge, makes of the true media")


def _examples(measured: Measured, count: int) -> None:
    from omniform.evaluation.report import chosen

    for number in chosen(measured.found, count, most_wrong=count // 3):
        prediction = measured.found.predictions[number]
        media = ", ".join(m.name for m in measured.dataset[number].media)
        mark = "right" if prediction.correct else f"wrong, the answer is {prediction.answer!r}"
        print(f"\n{media}\n  {prediction.question}\n  {prediction.prediction!r} ({mark})")
