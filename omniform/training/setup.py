"""Recipe -> everything that training touches: system, tokenizer, processor, model, datasets."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omniform import serial
from omniform.data.choices import Chooser
from omniform.data.codes import Coder
from omniform.data.dataset import Dataset
from omniform.data.datasets import open_datasets
from omniform.data.document import Text
from omniform.data.loader import Loader, Order, Step
from omniform.data.processor import Processor
from omniform.data.tokenizer import HfTokenizer, open_tokenizer, train_tokenizer
from omniform.frozen import FrozenMap
from omniform.model import Lmm
from omniform.prompt import Prompt
from omniform.spec import System
from omniform.training.freeze import Learning, prefixes, start_learning, stop_learning
from omniform.training.plain import RecipeError
from omniform.training.recipe import Recipe
from omniform.training.stages import StageRun
from omniform.training.state import saved_tensors
from omniform.training.step import TrainingError, accumulate, culprits
from omniform.training.weights import load_parts, source_path
from omniform.weights.layout import CheckpointError

CONTROL = re.compile(r"<[^<>\s]+>")
"""What counts as one token where it stands in a prompt, such as <|im_end|>."""


@dataclass(frozen=True)
class Setup:
    """What a run is made of.

    Attributes:
        system: the recipe's, with the tokenizer's vocabulary.
        datasets: those that the stages name.
        given: paths of parts that started from released weights.
        identity: what must be the same when a run is resumed: the system's declaration, the released weights that
            parts start from, and how many documents each dataset holds.
    """

    recipe: Recipe
    system: System
    tokenizer: HfTokenizer
    processor: Processor
    model: Lmm
    datasets: Mapping[str, Dataset]
    given: tuple[str, ...] = ()
    identity: Mapping[str, Any] = FrozenMap()

    # -- what the trainer asks (`training.job.Job`) --

    def loader(self, stage: StageRun) -> Loader:
        return stage_loader(self, stage)

    def remarks(self, stage: StageRun) -> Iterator[str]:
        if not shares_trunks(self, stage):
            yield (
                f"{self.system.backbone.title} shares no positions between documents: each is read whole, equal media "
                "are encoded once"
            )

    def start(self, stage: StageRun) -> Learning:
        return start_learning(self.model, stage, self.tokenizer.id_of)

    def stop(self, stage: StageRun, learning: Learning) -> None:
        stop_learning(self.model, stage, learning)

    def accumulate(self, stage: StageRun, step: Step, device: torch.device) -> Tensor:
        return accumulate(self.model, step, self.recipe.precision, device, stage.outputs)

    def tensors(self, stages: Sequence[StageRun]) -> dict[str, Tensor]:
        return saved_tensors(self.model, self.given, tuple(stages))

    def culprits(self, loader: Loader, step: int, device: torch.device) -> str:
        numbers = loader.order.at(step)
        return culprits(self.model, loader, numbers, self.recipe.precision, device)


def set_up(recipe: Recipe, tokenizer_folder: Path | None = None) -> Setup:
    """Everything a recipe needs; what is random in it follows from the recipe's seed.

    Args:
        tokenizer_folder: the run's own tokenizer, if it has one already.

    Raises:
        DataError: a dataset cannot be used.
        CheckpointError: released weights cannot be used.
    """
    datasets = {name: open_datasets(recipe.data[name]) for name in dict.fromkeys(s.data for s in recipe.stages)}
    tokenizer, added = make_tokenizer(recipe, datasets, tokenizer_folder)
    model = _model(recipe, tokenizer, added)
    identity = {
        "the system's declaration": hashlib.sha256(serial.dumps(model.system).encode()).hexdigest(),
        "the released weights that parts start from": fingerprint(model, recipe.weights),
        "the number of documents in the data": {name: len(dataset) for name, dataset in datasets.items()},
    }
    return Setup(
        recipe=recipe, system=model.system, tokenizer=tokenizer,
        processor=Processor(model.system, tokenizer, Coder(model), Chooser(model)),
        model=model, datasets=datasets, given=tuple(recipe.weights), identity=identity,
    )  # fmt: skip


def stage_loader(setup: Setup, stage: StageRun) -> Loader:
    """The loader of a stage.

    Raises:
        TrainingError: its dataset is empty.
    """
    dataset = setup.datasets[stage.data]
    order = Order.of(dataset, stage.batch, setup.recipe.seed)
    if not order.documents:
        raise TrainingError(f"stage {stage.name!r}: dataset {stage.data!r} holds no documents")
    return Loader(
        dataset, setup.processor, order, prompt=stage.prompt, views=stage.views, max_positions=stage.max_positions,
        pack_positions=stage.pack_positions, on_bad_media=stage.on_bad_media, trees=shares_trunks(setup, stage),
    )  # fmt: skip


def shares_trunks(setup: Setup, stage: StageRun) -> bool:
    """Whether documents about the same media share their positions in a stage."""
    experts: Any = setup.system.backbone.experts_part if stage.experts == "apart" else None
    return experts.trees_in_training if experts else setup.system.backbone.trees


# --- tokenizer ---------------------------------------------------------------------------------------------------


def make_tokenizer(
    recipe: Recipe, datasets: Mapping[str, Dataset], folder: Path | None = None
) -> tuple[HfTokenizer, int]:
    """The tokenizer of a recipe, and how many tokens the system added to a released one."""
    source, special = recipe.tokenizer, recipe.system.added_tokens
    if source.kind == "train":
        if folder:
            return open_tokenizer(str(folder)), 0
        prompts = _prompts(recipe)
        control = dict.fromkeys(t for p in prompts for text in p.literals() for t in CONTROL.findall(text))
        texts = dict.fromkeys((*_words(datasets), *(text for p in prompts for text in p.literals())))
        return train_tokenizer(texts, tuple(dict.fromkeys((*special, *control))), int(source.value)), 0
    tokenizer = _released_tokenizer(recipe)
    return tokenizer, tokenizer.add_special(special) if special else 0


def _released_tokenizer(recipe: Recipe) -> HfTokenizer:
    value = str(recipe.tokenizer.value)
    if recipe.tokenizer.kind == "path":
        return open_tokenizer(value)
    file = source_path(value)
    if file.suffix != ".gguf":
        raise CheckpointError(f"tokenizer: {value} is no GGUF file; write {{path: {value}}}")
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars that nothing switches off
        return open_tokenizer(str(file.parent), file.name)


def _prompts(recipe: Recipe) -> list[Prompt]:
    return [recipe.system.prompt, *(s.prompt for s in recipe.stages if s.prompt)]


def _words(datasets: Mapping[str, Dataset]) -> Iterator[str]:
    """Text of all documents, each different one once, as it stands after a space and at a start."""
    for dataset in datasets.values():
        for number in range(len(dataset)):
            for segment in dataset[number].segments:
                if isinstance(segment, Text):
                    yield segment.text
                    yield f" {segment.text}"


# --- model -------------------------------------------------------------------------------------------------------


def with_vocab(system: System, size: int) -> System:
    """The system with a backbone of that vocabulary: the one place where it is set."""
    return system.but({"backbone.vocab": size})


def _model(recipe: Recipe, tokenizer: HfTokenizer, added: int) -> Lmm:
    """The model; a backbone that starts from released weights keeps their vocabulary, and grows if need be."""
    torch.manual_seed(recipe.seed)
    if "backbone" not in recipe.weights:
        model: Lmm = with_vocab(recipe.system, tokenizer.size).build()
        load_parts(model, recipe.weights)
        return model
    model = recipe.system.build()
    load_parts(model, recipe.weights)
    if added:
        grow_vocab(model, tokenizer.size, added)
    elif tokenizer.size > model.system.backbone.vocab:
        raise RecipeError(
            f"the tokenizer has {tokenizer.size} tokens, the released backbone {model.system.backbone.vocab}; "
            "they do not belong together"
        )
    return model


@torch.no_grad()
def grow_vocab(model: Lmm, size: int, added: int) -> None:
    """Give the last `added` of a tokenizer's `size` tokens embeddings: the mean of all tokens before them.

    Rows are appended where the backbone has too few.
    """
    lm: Any = model.backbone.lm
    if size > model.system.backbone.vocab:
        lm.resize_token_embeddings(size, mean_resizing=False)
        model.system = with_vocab(model.system, size)
        model.backbone.spec = model.system.backbone
    for layer in (lm.get_input_embeddings(), lm.get_output_embeddings()):
        rows = layer.weight
        rows[size - added : size] = rows[: size - added].mean(0)


def fingerprint(model: Lmm, given: Mapping[str, str]) -> str:
    """Tells released weights apart by the first numbers of their tensors; empty where none are used."""
    if not given:
        return ""
    digest = hashlib.sha1(usedforsecurity=False)
    kept = prefixes(model, tuple(given))
    for name, tensor in model.state_dict().items():
        if name.startswith(kept):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.flatten()[:16].tolist()}".encode())
    return digest.hexdigest()
