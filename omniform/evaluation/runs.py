"""A run's directory read again: its recipe, its data, what it recorded while learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from omniform.data.dataset import Dataset
from omniform.data.datasets import open_datasets
from omniform.evaluation.chart import Curve
from omniform.evaluation.metrics import metric
from omniform.index import unknown
from omniform.inference.sampling import GenerationConfig
from omniform.training.metrics import read_records
from omniform.training.plain import Fields, read_yaml
from omniform.training.recipe import Recipe, resolve_recipe
from omniform.training.run import RECIPE


class RunError(ValueError):
    """A directory that is not a complete run; the message says what is missing and how to get it."""


def refuse_other_files(folder: Path, own: str) -> None:
    """Refuse a directory to write that holds files and not `own`, the file that tells an earlier result.

    Raises:
        RunError: it does.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / own).exists():
        raise RunError(f"{folder} holds other files and no {own}, and would be replaced; give another directory")


@dataclass(frozen=True)
class EvaluationSettings:
    """The recipe's `evaluate`: which data, and how its answers are made and scored.

    Attributes:
        data: name of one of the recipe's datasets.
        limit: at most so many documents, from the first.
        write: the one modality that answers are of; empty leaves it to the model.
        judge: a run or model that puts media in answers into words, which are compared; it is asked `question`.
    """

    data: str
    metric: str = "exact_match"
    limit: int | None = None
    max_new_tokens: int = 32
    write: str = ""
    judge: str = ""
    question: str = ""

    @staticmethod
    def of(plain: Mapping[str, Any]) -> EvaluationSettings:
        """From a recipe.

        Raises:
            RecipeError: a value of the wrong type.
            UnknownName: a key or metric that there is not.
            RunError: it does not say which data.
        """
        read = Fields(dict(plain), "evaluate", tuple(f.name for f in fields(EvaluationSettings)))
        if "data" not in read.data:
            raise RunError("the recipe does not say what to evaluate on; add `evaluate: {data: NAME}`, or give --data")
        name = read.get("metric", str, "exact_match")
        metric(name)
        said = {key: read.get(key, str, "") for key in ("write", "judge", "question")}
        if said["judge"] and not said["question"]:
            raise RunError("the recipe names a judge and not what it is asked; add a `question` to `evaluate`")
        return EvaluationSettings(
            data=read.get("data", str, ""),
            metric=name,
            limit=read.optional("limit", int, None),
            max_new_tokens=read.get("max_new_tokens", int, 32),
            **said,
        )

    def generation(self) -> GenerationConfig:
        """How answers are generated."""
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens, modalities=(self.write,) if self.write else (), first=self.write
        )


@dataclass(frozen=True)
class Run:
    """A run's directory."""

    folder: Path

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe.

        Raises:
            RunError: the directory is not a run's.
        """
        path = self.folder / RECIPE
        if not path.is_file():
            raise RunError(f"{self.folder} is not a run: it has no {RECIPE}; give the directory `omniform train` wrote")
        return resolve_recipe(read_yaml(path))

    def dataset(self, name: str) -> Dataset:
        """One of the recipe's datasets.

        Raises:
            UnknownName: the recipe has none of that name.
            DataError: its files cannot be used.
        """
        if name not in self.recipe.data:
            raise unknown(f"dataset in the recipe of {self.folder}", name, self.recipe.data)
        return open_datasets(self.recipe.data[name])

    @cached_property
    def records(self) -> list[Mapping[str, Any]]:
        return read_records(self.folder)

    def curves(self) -> list[Curve]:
        """Loss of each stage, in order."""
        stages = dict.fromkeys(record["stage"] for record in self.records)
        return [self._curve(name) for name in stages]

    def _curve(self, stage: str) -> Curve:
        own = [record for record in self.records if record["stage"] == stage]
        return Curve(stage, [r["step"] for r in own], [r["loss"] for r in own])

    @property
    def seconds(self) -> float:
        """Time that training took, over all resumptions."""
        return float(self.records[-1]["seconds"]) if self.records else 0.0
