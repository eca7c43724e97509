"""A folder or a hub id -> an engine: what a run ended with, an own checkpoint, or a release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from omniform import index
from omniform.data.choices import Chooser
from omniform.data.codes import Coder
from omniform.data.processor import Processor
from omniform.data.tokenizer import HfTokenizer, open_tokenizer
from omniform.inference.engine import Engine
from omniform.model import Lmm
from omniform.spec import System
from omniform.weights import store
from omniform.weights.files import read_json
from omniform.weights.hub import folder_of
from omniform.weights.layout import CheckpointError, looks_like
from omniform.weights.load import load_release

RUN_MODEL, RUN_RECIPE = "model", "recipe.yaml"
"""What a run's directory holds: the model, once it is trained to its end, and its recipe."""


def open_model(
    where: str | Path,
    *,
    system: System | str | None = None,
    tokenizer: str | Path | None = None,
    separate: Mapping[str, str | Path] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Engine:
    """The engine of a trained or released model.

    Args:
        where: a run's directory, an own checkpoint, or the folder or hub id of a release.
        system: of a release; only needed where its config.json does not say. A slug, or a `System`, taken as it is.
        tokenizer: folder or hub id, where the release holds none.
        separate: repository that holds weights the release leaves out -> folder or another hub id.
        dtype: of the weights; None keeps what was saved.
        device: None is the accelerator, if there is one.

    Raises:
        CheckpointError: there is no model, or its files are missing, damaged, or not those of the system.
        UnknownName: no such system.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    own = _own_checkpoint(Path(where).expanduser())
    if own:
        model: Lmm = store.load(own, dtype=dtype, device=device)
        return Engine(model, Processor(model.system, _tokenizer(tokenizer or own), Coder(model), Chooser(model)))
    _check_not_a_slug(where)
    folder = folder_of(where)
    model = load_release(system or _system_of(folder), folder, separate=separate, dtype=dtype, device=device)
    words = _tokenizer(tokenizer or folder)
    words.add_special(model.system.added_tokens)
    if words.size > model.system.backbone.vocab:
        raise CheckpointError(
            f"the tokenizer of {tokenizer or folder} has {words.size} tokens with those of {model.system.slug}, "
            f"the backbone {model.system.backbone.vocab}; they do not belong together, give tokenizer="
        )
    return Engine(model, Processor(model.system, words, Coder(model), Chooser(model)))


def _own_checkpoint(path: Path) -> Path | None:
    """The checkpoint of ours at a path; None if what is there is not ours."""
    for folder in (path / RUN_MODEL, path):
        if (folder / store.SYSTEM).is_file():
            return folder
    if (path / RUN_RECIPE).is_file():
        raise CheckpointError(
            f"the run {path} has no {RUN_MODEL} yet: it is not trained to its end; go on with `omniform train {path}`"
        )
    return None


def _check_not_a_slug(where: str | Path) -> None:
    if not Path(where).exists() and str(where).partition(":")[0] in index.names("systems"):
        raise CheckpointError(
            f"{where} names a system, which has no weights of its own; give the folder or hub id of a release, "
            f"and system={str(where)!r} if it does not say whose it is"
        )


def _system_of(folder: Path) -> str:
    """The system that a release's config.json names."""
    said = tuple(read_json(folder / "config.json").get("architectures") or ())
    slugs = looks_like(said)
    if len(slugs) != 1:
        whose = f"several systems: {', '.join(slugs)}" if slugs else "none of the known systems"
        raise CheckpointError(
            f"{folder / 'config.json'} says {', '.join(said) or 'no architecture'}, which is {whose}; give system=SLUG"
        )
    return slugs[0]


def _tokenizer(where: str | Path) -> HfTokenizer:
    try:
        return open_tokenizer(str(where))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"no tokenizer can be read from {where} ({reason}); give tokenizer=FOLDER") from error
