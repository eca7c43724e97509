"""A system from the checkpoint in which it was released, whatever its keys, shards and folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omniform import index
from omniform.geometry import SpecError
from omniform.parts import Rules
from omniform.spec import System
from omniform.weights.adapters import adapter_shapes, check_adapters, with_adapters
from omniform.weights.configs import full_config
from omniform.weights.files import Entry, entries, read, read_json
from omniform.weights.fill import Slots, fill, move_constants, slots, without_memory
from omniform.weights.hub import folder_of
from omniform.weights.layout import (
    CheckpointError,
    LayoutError,
    Match,
    Place,
    Shape,
    Shapes,
    looks_like,
    match,
    ours,
    released,
    rules_of,
    separate_rules,
)
from omniform.weights.recast import apart, last_rows, released_shapes

Where = str | Path
LANGUAGE_MODEL = "backbone.lm."


def load_release(
    system: System | str,
    where: Where,
    *,
    separate: Mapping[str, Where] | None = None,
    base: Where | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Any:
    """The model of a system with the weights of a release, in evaluation mode.

    Args:
        system: a slug, sized by the release's config.json where it has one; or a `System`, taken as it is.
        where: folder or hub id of the release.
        separate: repository that holds weights the release leaves out -> local folder or another hub id.
        base: plain language model that the release holds differences to, and which are added to it
            (haotian-liu/LLaVA@ddcd5ac llava/model/apply_delta.py:22-33).
        dtype: of the weights; None is the one that most of the release is stored in.

    Returns:
        The `Lmm`; weights are read once, tensor by tensor.

    Raises:
        CheckpointError: nothing usable there; config.json is missing or another system's; files are missing,
            damaged or hold more than tensors.
        LayoutError: keys or shapes are not those of the system.
    """
    release = _open(system, folder_of(where), separate or {})
    with without_memory():
        model = release.system.build()
    needed = slots(model)
    sources = [_main_source(release, needed), *_other_sources(release, needed)]
    _check(release, sources)
    kind = _common_dtype(release.system, sources) if dtype is None else dtype
    plain = {} if base is None else entries(folder_of(base))
    for source in sources:
        tensors = _added(source.tensors(), plain) if plain else source.tensors()
        fill(model, with_adapters(release.system, release.held, tensors), dtype=kind, device=device)
        source.check_ties(model)
    sources[0].put_rows(model)
    for prefix, folder in release.others.items():
        if prefix.startswith("diffusion."):
            model.get_submodule(prefix.rstrip(".")).settle(folder)
    move_constants(model, device)
    return model.eval()


# --- what is there -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Release:
    """A release on disk, before its values are read.

    Attributes:
        held: released key -> stored tensor.
        repositories: our prefix -> name of the other repository that may hold the weights under it.
        others: our prefix -> folder of the repository that holds the weights under it.
    """

    system: System
    folder: Path
    config: Mapping[str, Any]
    held: dict[str, Entry]
    repositories: Mapping[str, str]
    others: Mapping[str, Path]


@dataclass(frozen=True)
class _Source:
    """Tensors of one checkpoint on their way to our names.

    Attributes:
        shapes: our name -> shape, of everything that the system needs.
    """

    system: System
    held: dict[str, Entry]
    match: Match
    rules: Rules
    shapes: Shapes
    repository: str = ""

    def place(self, name: str) -> str:
        """Where our tensor is looked for, in the release's words."""
        return str(Place(released(name, self.rules) or name, self.repository))

    @property
    def left_over(self) -> tuple[str, ...]:
        """Keys without a place; another repository is a whole of which the system takes a part."""
        return () if self.repository else self.match.left_over

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        names = {key: name for name, key in self.match.found.items()}
        for key, values in read(self.held, names):
            if not last_rows(self.system, names[key]):
                yield from apart(self.system, names[key], values, self.shapes)
            elif self.repository:
                more = self.shapes[names[key]][0] - len(values)
                yield names[key], torch.cat([values, values.new_zeros(more, *values.shape[1:])])

    def put_rows(self, model: nn.Module) -> None:
        """The last rows of tables whose others came from another repository."""
        names = {key: name for name, key in self.match.found.items() if last_rows(self.system, name)}
        for key, values in read(self.held, names):
            model.get_parameter(names[key]).data[-len(values) :] = values

    def check_ties(self, model: nn.Module) -> None:
        """Tied tensors that a file holds twice must be equal; one of them would be dropped."""
        for name, key in ((n, k) for n, k in self.match.tied.items() if not last_rows(self.system, n)):
            kept = model.get_parameter(name)
            for _, values in read(self.held, [key]):
                if not torch.equal(values.to(kept), kept):
                    raise CheckpointError(
                        f"{self.held[key].file}: {key} and {self.match.found[name]} differ, but config.json ties them; "
                        "correct tie_word_embeddings"
                    )


def _open(system: System | str, folder: Path, separate: Mapping[str, Where]) -> _Release:
    given = index.system(system) if isinstance(system, str) else system
    held = _held(given, folder)
    sized = isinstance(system, str) and given.layout.configured
    config = _config(given, folder) if sized or (folder / "config.json").is_file() else {}
    # the layout may depend on the release; and an error comes before anything else is fetched
    shaped = _as_released(given, config, folder) if sized else given
    repositories = _repositories(shaped, config, separate)
    others, vision = _others(shaped, folder, held, repositories, separate)
    if sized:
        given = _as_released(given, {**config, **({"vision_config": vision} if vision else {})}, folder)
    return _Release(given, folder, config, held, repositories, others)


def _held(system: System, folder: Path) -> dict[str, Entry]:
    if not system.layout.folders:
        check_adapters(system, folder)
        return entries(folder, adapters=system.layout.adapters is not None)
    found = {}
    for name in system.layout.folders:
        if not (folder / name).is_dir():
            raise CheckpointError(
                f"{folder} has no sub-folder {name}; {system.slug} is released as {', '.join(system.layout.folders)}"
            )
        found.update({f"{name}/{key}": entry for key, entry in entries(folder / name).items()})
    return found


def _config(system: System, folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    return {**config, **{name: full_config(folder / name) for name in system.layout.folders}}


def _as_released(system: System, config: Mapping[str, Any], folder: Path) -> System:
    try:
        return index.release(system.slug, config)
    except (SpecError, KeyError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{folder / 'config.json'} is not one of {system.slug}: {reason}{_whose(system, config)}"
        ) from error


def _whose(system: System, config: Mapping[str, Any]) -> str:
    """What the configuration says the release is, where that differs from the system asked for."""
    said = tuple(config.get("architectures") or ())
    if not said or set(said) & set(system.layout.architectures):
        return ""
    known = [slug for slug in looks_like(said) if slug != system.slug]
    systems = f", the release of {' or '.join(known)}" if known else ""
    return f"; its config.json says {', '.join(said)}{systems}"


# --- weights in other repositories -------------------------------------------------------------------------------


def _repositories(system: System, config: Mapping[str, Any], separate: Mapping[str, Where]) -> dict[str, str]:
    """Our prefix -> repository that holds the weights under it, unless the release itself does."""
    named = {prefix: config.get(key) for prefix, key in system.layout.named_in.items()}
    repositories = {**system.layout.separate, **{prefix: name for prefix, name in named.items() if name}}
    for modality, output in system.outputs.items():
        if not output.generator:  # a diffusion model that is left out
            repositories.pop(f"diffusion.{modality}.", None)
    for name in separate:
        if name not in repositories.values():
            raise index.unknown(f"separate repository of {system.slug}", name, repositories.values())
    return repositories


def _others(
    system: System, folder: Path, held: dict[str, Entry], repositories: dict[str, str], separate: Mapping[str, Where]
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Folders of what the release leaves out, and the configuration of an encoder that has a folder of its own."""
    rules = rules_of(system)
    names = [name for key in held if (name := ours(key, rules)) and not last_rows(system, name)]
    others: dict[str, Path] = {}
    vision: dict[str, Any] = {}
    for prefix, repository in repositories.items():
        place = _near(folder, repository, separate)
        if not any(name.startswith(prefix) for name in names):
            place = others[prefix] = _fetched(place, repository, prefix)
        if place is not None and prefix.endswith(".encoder.") and (place / "config.json").is_file():
            config = full_config(place)
            vision = config.get("vision_config", config)
    return others, vision


def _near(folder: Path, repository: str, separate: Mapping[str, Where]) -> Path | None:
    """The folder or file of a repository, where it needs no fetching: given, inside the release, or a path."""
    if repository in separate:
        given = Path(separate[repository]).expanduser()
        return given if given.is_file() else folder_of(given)
    inside = (folder / repository).resolve()
    if inside.exists() and inside.is_relative_to(folder.resolve()):
        return inside
    return Path(repository) if Path(repository).is_dir() else None


def _fetched(place: Path | None, repository: str, prefix: str) -> Path:
    try:
        return place or folder_of(repository)
    except CheckpointError as error:
        raise CheckpointError(
            f"the release leaves {prefix.rstrip('.')} to {repository}: {error}; "
            f"give its folder: separate={{{repository!r}: FOLDER}}"
        ) from error


# --- comparison --------------------------------------------------------------------------------------------------


def _main_source(release: _Release, needed: Slots) -> _Source:
    elsewhere = tuple(release.others)
    rules = rules_of(release.system)
    here, system = needed.shapes.items(), release.system
    own = {n: shape for n, shape in here if not n.startswith(elsewhere) or last_rows(system, n)}
    found = _beside(release, _matched(release.held, released_shapes(release.system, own), rules, needed), needed.shapes)
    return _Source(release.system, release.held, found, rules, needed.shapes)


def _beside(release: _Release, found: Match, shapes: Shapes) -> Match:
    """The match, with adapters where a release holds such: all of them must be there, in their shapes."""
    wanted = adapter_shapes(release.system, shapes)
    sized = {key: (release.held[key].shape, shape) for key, shape in wanted.items() if key in release.held}
    return replace(
        found,
        missing=(*found.missing, *(key for key in wanted if key not in release.held)),
        left_over=tuple(key for key in found.left_over if key not in wanted),
        mismatched={**found.mismatched, **{key: pair for key, pair in sized.items() if pair[0] != pair[1]}},
    )


def _other_sources(release: _Release, needed: Slots) -> Iterator[_Source]:
    for prefix, folder in release.others.items():
        rules, held = separate_rules(release.system, prefix), entries(folder)
        shapes = {name: shape for name, shape in needed.shapes.items() if name.startswith(prefix)}
        shapes |= _shorter(release.system, held, shapes, rules)
        found, repository = _matched(held, shapes, rules, needed), release.repositories[prefix]
        yield _Source(release.system, held, found, rules, needed.shapes, repository)


def _shorter(system: System, held: dict[str, Entry], shapes: Shapes, rules: Rules) -> dict[str, Shape]:
    """Shapes of tables whose last rows the release holds: elsewhere some of these may be missing."""
    found: dict[str, Shape] = {}
    for key, entry in held.items():
        name = ours(key, rules) or ""
        rows = last_rows(system, name)
        if rows and name in shapes and shapes[name][0] - rows <= entry.shape[0] <= shapes[name][0]:
            found[name] = entry.shape
    return found


def _matched(held: dict[str, Entry], shapes: Shapes, rules: Rules, needed: Slots) -> Match:
    return match({key: entry.shape for key, entry in held.items()}, shapes, rules, needed.aliases)


def _check(release: _Release, sources: list[_Source]) -> None:
    """All disagreements of all sources at once."""
    missing = tuple(s.place(name) for s in sources for name in s.match.missing)
    left_over = tuple(key for s in sources for key in s.left_over)
    mismatched = {s.place(name): shapes for s in sources for name, shapes in s.match.mismatched.items()}
    if missing or left_over or mismatched:
        hint = _whose(release.system, release.config).removeprefix("; ")
        what = f"{release.system.slug} as released"
        raise LayoutError(str(release.folder), what, missing, left_over, mismatched, hint)


def _added(tensors: Iterable[tuple[str, Tensor]], plain: dict[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """The language model's tensors plus those of a plain one, whose embedding may have fewer rows."""
    for name, values in tensors:
        key = name.removeprefix(LANGUAGE_MODEL)
        if key != name:
            if key not in plain:
                raise CheckpointError(f"the base model has no {key} that {name} would be added to")
            for _, own in read(plain, [key]):
                if own.shape[1:] != values.shape[1:] or len(own) > len(values):
                    raise CheckpointError(f"{key} is {list(own.shape)} in the base model, {list(values.shape)} here")
                values[: len(own)] += own.to(values.dtype)
        yield name, values


def _common_dtype(system: System, sources: Sequence[_Source]) -> torch.dtype:
    """That of the release itself; of all where it holds adapters to what lies elsewhere."""
    sizes: Counter[torch.dtype] = Counter()
    for entry in (e for s in sources[: None if system.layout.adapters else 1] for e in s.held.values()):
        sizes[entry.dtype] += entry.bytes if entry.dtype.is_floating_point else 0
    return sizes.most_common(1)[0][0]
