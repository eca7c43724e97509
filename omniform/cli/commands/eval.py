"""`omniform eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omniform.cli import options

if TYPE_CHECKING:
    from omniform.data.dataset import Dataset
    from omniform.evaluation.evaluation import Evaluation


def command(
    run: Annotated[Path, typer.Argument(help="Directory of a run.")],
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

    Writes predictions.jsonl and evaluation.json.
    """
    from omniform.cli.output import print_json
    from omniform.cli.progress import progress
    from omniform.evaluation.evaluate import Answering, evaluate
    from omniform.evaluation.judge import Judged
    from omniform.evaluation.run_report import run_report
    from omniform.evaluation.runs import EvaluationSettings, Run
    from omniform.inference.load import open_model

    opened = Run(run)
    given: dict[str, Any] = {"data": data, "metric": metric, "limit": limit, "judge": judge}
    settings = EvaluationSettings.of({**opened.recipe.evaluate, **{k: v for k, v in given.items() if v}})
    dataset, engine = opened.dataset(settings.data), open_model(run, device=device or None)
    answering: Answering = engine
    if settings.judge:
        answering = Judged(engine, open_model(settings.judge, device=device or None), settings.question)
    with progress(f"asking {settings.data}", "answers") as show:
        found = evaluate(
            answering, dataset, metric_name=settings.metric, limit=settings.limit, progress=show,
            config=settings.generation(),
        )  # fmt: skip
    folder = out or run
    found.save(folder)
    if report:
        from omniform.evaluation.evaluation import write_whole

        write_whole(folder / "report.html", run_report(opened, engine, dataset, settings.data, found).html())
    if json:
        print_json(found.summary())
    else:
        _say(found)
        _examples(found, dataset, examples)
        print(f"\n{folder / 'predictions.jsonl'}" + (f", {folder / 'report.html'}" if report else ""))


def _say(found: Evaluation) -> None:
    from omniform.cli.output import print_table
    from omniform.evaluation.report import percent

    tallies = [*found.by_type.items(), ("all", found.overall)]
    print_table(
        ("questions", "right", "of", found.metric.replace("_", " ")),
        ((kind or "(no type)", f"{t.right:,}", f"{t.count:,}", percent(t.score.ratio)) for kind, t in tallies),
        right=("right", "of", found.metric.replace("_", " ")),
    )


def _examples(found: Evaluation, dataset: Dataset, count: int) -> None:
    from omniform.evaluation.report import chosen

    for number in chosen(found, count, most_wrong=count // 3):
        prediction = found.predictions[number]
        media = ", ".join(m.name for m in dataset[number].media)
        mark = "right" if prediction.correct else f"wrong, the answer is {prediction.answer!r}"
        print(f"\n{media}\n  {prediction.question}\n  {prediction.prediction!r} ({mark})")
