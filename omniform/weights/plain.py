"""One part from a checkpoint of its own: a language model, an encoder's public weights, or a connector alone.

Stage 1 of most systems starts so: Vicuna and CLIP as published, the connector new.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from omniform import index
from omniform.parts import Backbone, Rules
from omniform.weights.files import entries, read
from omniform.weights.fill import fill, slots
from omniform.weights.hub import folder_of
from omniform.weights.layout import BUFFERS, CheckpointError, LayoutError, Shape, match, ours, released, rules_of

GGUF = ".gguf"
OWN = frozenset({"name", "context", "vocab", "moe"})
"""Fields of a backbone in which a checkpoint may differ: `vocab` is checked by the shapes, experts come beside it."""


def plain_llm(where: str | Path, **changes: Any) -> Backbone:
    """The declaration of a language model on disk or on the hub, by its configuration.

    Args:
        where: folder, hub id, or GGUF file.
        changes: fields that shall differ (`name`, a larger `vocab`).

    Raises:
        CheckpointError: nothing there, or a family that no backbone stands for.
    """
    config = _config(where)
    return _family(config, where).from_config(config, **changes)


def _family(config: Mapping[str, Any], where: str | Path) -> Any:
    """The backbone that stands for a configuration's family."""
    kinds: list[Any] = [c for c in index.declarations("backbones").values() if issubclass(c, Backbone)]
    families: dict[str, Any] = {}
    for family in kinds:
        if own := vars(family).get("model_type"):  # a variation inherits the family's, and does not stand for it
            families[own] = family
    if config.get("model_type") not in families:
        raise CheckpointError(f"{where}: {index.unknown('backbone family', str(config.get('model_type')), families)}")
    return families[config["model_type"]]


def load_plain_llm(
    backbone: Any,
    where: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    extend_vocab: bool = False,
    fresh: tuple[str, ...] = (),
) -> None:
    """Fill a backbone's module with a plain language model.

    Args:
        backbone: module of a `Backbone` with a `model_type` (`model.backbone`).
        where: folder, hub id, or GGUF file, whose quantised weights are expanded.
        extend_vocab: whether the backbone may have more rows than the checkpoint (special tokens that a system adds);
            they become the mean of the rows that are there (haotian-liu/LLaVA@c121f04 llava/train/train.py:253-273).
        fresh: prefixes of what a plain language model lacks, and which stays as it is (routers, further experts).

    Raises:
        CheckpointError: nothing usable there, or settings that no shape shows differ.
        LayoutError: keys or shapes differ.
    """
    folder, file = _place(where)
    check_settings(backbone.spec, where)
    needed, rules = slots(backbone), backbone.spec.released
    wanted = {name: shape for name, shape in needed.shapes.items() if not name.startswith(fresh)}
    given = None if file else _as_stored(folder, wanted, rules, needed.aliases)
    # a GGUF file may hold no vocabulary of which its size would follow
    config = backbone.lm.config if file and not extend_vocab else None
    given = given or _as_converted(folder, file, dtype, config)
    rows = {key: _rows(shape, wanted.get(ours(key, rules) or "")) for key, shape in given.shapes.items()}
    shapes = rows if extend_vocab else given.shapes
    found = match(shapes, wanted, rules, needed.aliases)
    if found.missing or found.left_over or found.mismatched:
        raise LayoutError(str(where), "the backbone", found.missing, found.left_over, found.mismatched)
    names = {key: name for name, key in found.found.items()}
    tensors = ((names[key], _extended(values, shapes[key])) for key, values in given.read(names))
    fill(backbone, tensors, dtype=dtype, device=device)


@dataclass(frozen=True)
class _Given:
    """A language model's tensors under the names of its family, before they are read."""

    shapes: Mapping[str, Shape]
    read: Callable[[Iterable[str]], Iterable[tuple[str, Tensor]]]


def _as_stored(folder: Path, wanted: Mapping[str, Shape], rules: Rules, aliases: Mapping[str, str]) -> _Given | None:
    """The files as they are, when their keys are those of the module."""
    held = {key: entry for key, entry in entries(folder).items() if not key.endswith(BUFFERS)}
    shapes = {key: entry.shape for key, entry in held.items()}
    found = match(shapes, wanted, rules, aliases)
    return None if found.missing or found.left_over else _Given(shapes, partial(read, held))


def _as_converted(folder: Path, file: str | None, dtype: torch.dtype, config: Any = None) -> _Given:
    """What transformers makes of files with other keys, or of a GGUF file."""
    given = dict(_pretrained(folder, file, dtype, config).state_dict())
    return _Given({n: tuple(t.shape) for n, t in given.items()}, lambda names: ((n, given[n]) for n in names))


def load_plain_encoder(
    encoder: Any, where: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> None:
    """Fill an encoder's module with the family's public checkpoint; what it does not use (a text tower) is left.

    Raises:
        CheckpointError: nothing usable there.
        LayoutError: tensors are missing or of another shape.
    """
    rules = encoder.spec.released or (("", ""),)
    _load_some(encoder, where, rules, slots(encoder).shapes, type(encoder.spec).__name__, dtype, device)


def load_connector(
    model: Any,
    where: str | Path,
    modality: str = "image",
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> None:
    """Fill a model's connector from a checkpoint in the system's release layout that may hold nothing else.

    Raises:
        CheckpointError: nothing usable there.
        LayoutError: tensors are missing or of another shape.
    """
    prefix = f"inputs.{modality}.connector."
    shapes = {name: shape for name, shape in slots(model).shapes.items() if name.startswith(prefix)}
    _load_some(model, where, rules_of(model.system), shapes, f"the connector of {model.system.slug}", dtype, device)


def _load_some(
    module: nn.Module, where: str | Path, rules: tuple[tuple[str, str], ...], shapes: Mapping[str, Shape], what: str,
    dtype: torch.dtype, device: torch.device | str,
) -> None:  # fmt: skip
    held = entries(folder_of(where))
    found = match({key: entry.shape for key, entry in held.items()}, shapes, rules)
    if found.missing or found.mismatched:
        missing = tuple(released(name, rules) or name for name in found.missing)
        raise LayoutError(str(where), what, missing, (), found.mismatched)
    names = {key: name for name, key in found.found.items()}
    fill(module, ((names[key], values) for key, values in read(held, names)), dtype=dtype, device=device)


def _place(where: str | Path) -> tuple[Path, str | None]:
    """Folder, and the GGUF file in it."""
    path = Path(where).expanduser()
    if path.suffix == GGUF:
        if not path.is_file():
            raise CheckpointError(f"there is no file {where}")
        return path.parent, path.name
    return folder_of(where), None


def _config(where: str | Path) -> dict[str, Any]:
    folder, file = _place(where)
    extra = {"gguf_file": file} if file else {}
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, **extra).to_dict()
    except Exception as error:  # what reads GGUF files fails in many ways on what is none
        raise CheckpointError(f"{where} is no language model that transformers knows: {_short(error)}") from error


def _pretrained(folder: Path, file: str | None, dtype: torch.dtype, config: Any) -> Any:
    """The transformers model, with everything that its configuration (by default its own) asks for."""
    extra = {**({"gguf_file": file} if file else {}), **({"config": config} if config else {})}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars that nothing switches off
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True,
                **extra,
            )  # fmt: skip
    except Exception as error:  # as above
        raise CheckpointError(f"{folder / (file or '')} cannot be read as a language model: {_short(error)}") from error
    lm, told = loaded
    other = {key: (tuple(there), tuple(here)) for key, there, here in told["mismatched_keys"]}
    missing, unexpected = sorted({*told["missing_keys"]} - {*other}), sorted(told["unexpected_keys"])
    if missing or unexpected or other:
        raise LayoutError(str(folder), type(lm).__name__, tuple(missing), tuple(unexpected), other)
    return lm


def check_settings(spec: Any, where: str | Path) -> None:
    """Refuse a language model that differs from a backbone in what no shape shows: heads, norms, rotary frequencies.

    Raises:
        CheckpointError: it does, or no language model is there.
    """
    config = _config(where)
    if config.get("model_type") != spec.model_type:
        raise CheckpointError(
            f"{where} is of the family {config.get('model_type')}, the backbone of {spec.model_type}; "
            "take the backbone that plain_llm gives"
        )
    theirs = _family(config, where).from_config(config)
    differing = {
        f.name: (getattr(theirs, f.name), getattr(spec, f.name))
        for f in fields(theirs)
        if f.name not in OWN and not _equal(getattr(theirs, f.name), getattr(spec, f.name))
    }
    # a head width that follows from the others may be said or left out
    if "head_dim" in differing and theirs.per_head == spec.per_head:
        differing.pop("head_dim")
    if differing:
        pairs = ", ".join(f"{name} {a} (backbone: {b})" for name, (a, b) in differing.items())
        raise CheckpointError(f"{where} has {pairs}; take the backbone that plain_llm gives")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-6)
    return a == b


def _rows(held: Shape, wanted: Shape | None) -> Shape:
    """The shape with as many rows as are wanted, where they are more and nothing else differs."""
    grows = wanted is not None and held[1:] == wanted[1:] and held[0] < wanted[0]
    return wanted if wanted is not None and grows else held


def _extended(tensor: Tensor, wanted: Shape) -> Tensor:
    """Rows added at the end, each the mean of those that are there."""
    if tuple(tensor.shape) == wanted:
        return tensor
    mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(wanted[0] - len(tensor), *mean.shape[1:])])


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
