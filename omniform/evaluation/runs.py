"""A run's directory read again: its recipe, its data, what it recorded while learning."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from omniform.data.dataset import Dataset
from omniform.data.datasets import open_datasets
from omniform.evaluation.chart import Curve
from omniform.evaluation.metrics import metric
from omniform.frozen import FrozenMap
from omniform.index import unknown
from omniform.inference.sampling import GenerationConfig, MediaSampling
from omniform.training.metrics import read_records
from omniform.training.plain import Fields, read_yaml, typed
from omniform.training.recipe import Recipe, evaluations, path_of, resolve_recipe
from omniform.training.run import RECIPE

APART = ("data", "limit", "media")
"""Fields of `EvaluationSettings` that are read by rules of their own."""


CHANGEABLE = ("data", "evaluate")
"""Keys of a recipe that may be changed when a run is measured."""


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
    """One evaluation of a recipe: which data, and how its answers are made and scored.

    Attributes:
        data: name of one of the recipe's datasets.
        limit: at most so many documents, from the first.
        write: the one modality that answers are of; empty leaves it to the model.
        judge: a run or model that puts media in answers into words, which are compared; it is asked `question`.
        max_new_tokens, temperature, top_k, top_p, seed: as in `GenerationConfig`.
        media: modality -> how its codes are chosen, fields as in `MediaSampling`; what is left out is as for words.
    """

    data: str
    metric: str = "exact_match"
    limit: int | None = None
    write: str = ""
    judge: str = ""
    question: str = ""
    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    media: Mapping[str, MediaSampling] = FrozenMap()

    @staticmethod
    def of(plain: Mapping[str, Any], where: str = "evaluate") -> EvaluationSettings:
        """From a recipe, where it stands at `where`.

        Raises:
            RecipeError: a value of the wrong type.
            UnknownName: a key or metric that there is not.
            RunError: it does not say which data.
            SamplingError: a number that nothing can be chosen with.
        """
        known = {f.name: f.default for f in fields(EvaluationSettings)}
        read = Fields(dict(plain), where, tuple(known))
        if "data" not in read.data:
            raise RunError(
                f"the recipe does not say what to evaluate on; add `{where}: {{data: NAME}}`, or give --data"
            )
        said = {key: read.get(key, type(default), default) for key, default in known.items() if key not in APART}
        metric(said["metric"])
        if said["judge"] and not said["question"]:
            raise RunError(f"the recipe names a judge and not what it is asked; add a `question` to `{where}`")
        media = {m: _sampling(own, f"{where}.media.{m}", said) for m, own in read.get("media", dict, {}).items()}
        made = EvaluationSettings(
            data=read.get("data", str, ""), limit=read.optional("limit", int, None), media=FrozenMap(media), **said
        )
        made.generation()
        return made

    def generation(self) -> GenerationConfig:
        """How answers are generated."""
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p,
            seed=self.seed, media=self.media, modalities=(self.write,) if self.write else (), first=self.write,
        )  # fmt: skip


def _sampling(plain: Any, where: str, words: Mapping[str, Any]) -> MediaSampling:
    """How the codes of a modality are chosen; what is not said of it is as for words."""
    defaults = {key: words.get(key, value) for key, value in vars(MediaSampling()).items()}
    read = Fields(plain, where, tuple(defaults))
    scales = tuple(typed(scale, float, f"{where}.guidance") for scale in read.get("guidance", list, []))
    numbers = {key: read.get(key, type(value), value) for key, value in defaults.items() if key != "guidance"}
    return MediaSampling(guidance=scales, **numbers)


def evaluations_of(
    recipe: Recipe, changes: Mapping[str, Any] = FrozenMap(), only: Sequence[str] = ()
) -> dict[str, EvaluationSettings]:
    """Name -> evaluation; the only one of a recipe, given without a name, has an empty one.

    Args:
        changes: what is said instead, in each; what is not the limit, in one only.
        only: names of those that are wanted; all if none is given.

    Raises: as `EvaluationSettings.of`, and
        UnknownName: there is no evaluation of that name.
    """
    found = evaluations(recipe.evaluate)
    for name in only:
        if name not in found:
            raise unknown("evaluation of the recipe", name, [known for known in found if known])
    chosen = [name for name in found if not only or name in only]
    if len(chosen) > 1 and set(changes) - {"limit"}:
        said = ", ".join(sorted(set(changes) - {"limit"}))
        raise RunError(f"the recipe has evaluations {', '.join(chosen)}; say by --only which has another {said}")
    return {name: EvaluationSettings.of({**found[name], **changes}, path_of(name)) for name in chosen}


@dataclass(frozen=True)
class Run:
    """A run's directory.

    Attributes:
        overrides: changes of what its recipe says of data and evaluations, `key=value`.
    """

    folder: Path
    overrides: tuple[str, ...] = ()

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe.

        Raises:
            RunError: the directory is not a run's, or something else shall change than data and evaluations.
            RecipeError: a change is not written as one.
        """
        path = self.folder / RECIPE
        if not path.is_file():
            raise RunError(f"{self.folder} is not a run: it has no {RECIPE}; give the directory `omniform train` wrote")
        for change in self.overrides:
            if re.split("[.=]", change)[0].strip() not in CHANGEABLE:
                raise RunError(f"{change}: of a run that is trained, only {' and '.join(CHANGEABLE)} can be changed")
        return resolve_recipe(read_yaml(path), self.overrides)

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
