"""One evaluation of a run: asked, judged where its recipe says so, and the judge measured on the true media."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from omniform.data.dataset import Dataset
from omniform.evaluation.evaluate import Answering, Progress, evaluate
from omniform.evaluation.evaluation import Evaluation
from omniform.evaluation.judge import Judged, Real, true_media
from omniform.evaluation.runs import EvaluationSettings


@dataclass(frozen=True)
class Measured:
    """What an evaluation of a run found.

    Attributes:
        name: in the recipe; empty for the only one.
    """

    name: str
    settings: EvaluationSettings
    dataset: Dataset
    found: Evaluation


def measure(
    name: str,
    settings: EvaluationSettings,
    dataset: Dataset,
    engine: Answering,
    judge: Answering | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Ask an engine what settings say; errors as in `evaluate`.

    Args:
        judge: of media in answers, opened from `settings.judge`. It is asked about the true media too, where every
            document has some.
    """
    ask = partial(
        evaluate, dataset=dataset, metric_name=settings.metric, limit=settings.limit, config=settings.generation()
    )
    if judge is None:
        return Measured(name, settings, dataset, ask(engine, progress=progress))
    found = ask(Judged(engine, judge, settings.question), progress=progress)
    if all(true_media(dataset[number]) for number in range(len(found.predictions))):
        real = ask(Judged(Real(), judge, settings.question))
        found = replace(found, real=replace(real, media=()))
    return Measured(name, settings, dataset, found)
