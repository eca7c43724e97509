"""Names and shapes: what a release calls each tensor, and whether a checkpoint holds exactly what a system needs.

A rule is (released prefix, our prefix). Reading, the first rule whose released prefix begins the key applies; writing,
the first whose our prefix does. Where a rule leads exactly to an encoder, to a member of several, or to a diffusion
model, the rules of that family's own public checkpoints (`Encoder.released`) are composed behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from omniform.index import names
from omniform.index import system as system_of
from omniform.parts import Encoder, Rules
from omniform.spec import Joined, System
from omniform.writing import Diffusion

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Mapping[str, Shape]

BUFFERS = (
    "rotary_emb.inv_freq",
    "rotary_pos_emb.inv_freq",
    "embeddings.position_ids",
    "self_attn.bias",
    "self_attn.masked_bias",
)
"""Endings of keys that old files hold although they are no weights: constants that the code computes itself."""

SHOWN = 3
"""How many keys an error names of each kind."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file or folder and the way out."""


@dataclass(eq=False)
class LayoutError(CheckpointError):
    """A checkpoint that does not hold exactly what a system needs.

    Attributes:
        missing: released names of tensors that the system needs and the checkpoint lacks.
        left_over: released names of tensors that the system has no place for.
        mismatched: released name -> (shape in the checkpoint, shape in the system).
    """

    where: str
    what: str
    missing: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()
    mismatched: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)
    hint: str = ""

    def __str__(self) -> str:
        shapes = [f"{key} is {list(a)}, needed {list(b)}" for key, (a, b) in self.mismatched.items()]
        kinds = (("missing", self.missing), ("left over", self.left_over), ("of another shape", shapes))
        found = "; ".join(f"{len(keys)} {kind}: {_few(keys)}" for kind, keys in kinds if keys)
        return f"{self.where} does not hold {self.what}: {found}" + (f"; {self.hint}" if self.hint else "")


class Place(NamedTuple):
    """Where a release holds a tensor: key, and the other repository it lies in ("" for the release itself)."""

    key: str
    repository: str = ""

    def __str__(self) -> str:
        return f"[separate {self.repository}] {self.key}" if self.repository else self.key


# --- rules -------------------------------------------------------------------------------------------------------


def rules_of(system: System) -> Rules:
    """Rules between the release's keys and ours."""
    return _composed(system.layout.rules, _foreign(system))


def separate_rules(system: System, prefix: str) -> Rules:
    """Rules between the keys of the other repository that holds the weights under `prefix` (ours), and ours."""
    own = system.layout.separate_rules.get(system.layout.separate.get(prefix, ""))
    return _composed((("", prefix),), _foreign(system)) if own is None else own


Foreign: TypeAlias = tuple[tuple[str, Encoder | Diffusion], ...]
"""Our prefix of each part that has public checkpoints of its own."""


def _foreign(system: System) -> Foreign:
    made = ((modality, output.generator) for modality, output in system.outputs.items())
    return (
        *((f"inputs.{modality}.encoder.", encoder) for modality, encoder in system.encoders.items()),
        *((f"diffusion.{modality}.", model) for modality, model in made if model),
    )


@cache  # asked for every key; a rule for each layer makes hundreds
def _composed(rules: Rules, foreign: Foreign) -> Rules:
    return tuple(rule for a, b in rules for rule in _behind(foreign, a, b))


def _behind(foreign: Foreign, released: str, ours: str) -> Rules:
    """One rule, with a family's own rules composed behind it where it leads to such a part or to one inside it."""
    for prefix, whole in foreign:
        if ours.startswith(prefix):
            part = _inside(whole, ours.removeprefix(prefix))
            if part is not None:
                return tuple((released + a, ours + b) for a, b in part.released)
    return ((released, ours),)


def _inside(whole: Encoder | Diffusion, path: str) -> Encoder | Diffusion | None:
    """The part at a path below another one: "" is itself, "members.1." the second of several encoders."""
    part: Any = whole
    for step in path.split(".")[:-1]:
        part = dict(enumerate(part)).get(int(step)) if isinstance(part, tuple) else getattr(part, step, None)
    return part if isinstance(part, Encoder | Diffusion) else None


def ours(key: str, rules: Rules) -> str | None:
    """Our name of a released key; None where no rule applies."""
    return next((b + key.removeprefix(a) for a, b in rules if key.startswith(a)), None)


def released(key: str, rules: Rules) -> str | None:
    """The released name of one of our keys; None where no rule applies."""
    return next((a + key.removeprefix(b) for a, b in rules if key.startswith(b)), None)


def parts_of(name: str, joined: Joined) -> tuple[str, ...]:
    """Our names of the tensors that stand in a joined one, in order; none if it is no such."""
    before, found, leaf = name.rpartition(f".{joined.whole}.")
    named = found and name.startswith(joined.under)
    return tuple(f"{before}.{part}.{leaf}" for part in joined.parts) if named else ()


def whole_of(name: str, system: System) -> str:
    """What the key rules call one of our tensors: its own name, or that of the one which it is joined into."""
    for joined in system.layout.joined:
        for part in joined.parts:
            before, found, leaf = name.rpartition(f".{part}.")
            if found and name.startswith(joined.under):
                return f"{before}.{joined.whole}.{leaf}"
    return name


def place_of(key: str, system: System) -> Place:
    """Where the release of a system holds one of our tensors.

    Raises:
        CheckpointError: the layout has no rule for it.
    """
    name = released(whole_of(key, system), rules_of(system))
    if name is not None:
        return Place(name)
    for prefix, repository in system.layout.separate.items():
        if key.startswith(prefix):
            name = released(key, separate_rules(system, prefix))
            if name is not None:
                return Place(name, repository)
    raise CheckpointError(f"the layout of {system.slug} says nothing of {key}; add a rule for it")


def key_at(place: Place, system: System) -> str | None:
    """Our name (of several: `whole_of` them) of what a release holds at a place; None where the system has none."""
    if not place.repository:
        return ours(place.key, rules_of(system))
    for prefix, repository in system.layout.separate.items():
        name = ours(place.key, separate_rules(system, prefix)) if repository == place.repository else None
        if name is not None:
            return name
    return None


# --- comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """A checkpoint's keys under our names.

    Attributes:
        found: our name -> released key, for everything the system needs and the checkpoint holds.
        tied: our name -> a second released key that must hold the same values.
        missing: our names of what it lacks.
        left_over: released keys that have no place.
        mismatched: our name -> (shape in the checkpoint, shape in the system).
    """

    found: Mapping[str, str]
    tied: Mapping[str, str]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    mismatched: Mapping[str, tuple[Shape, Shape]]


def match(held: Shapes, needed: Shapes, rules: Rules, aliases: Mapping[str, str] | None = None) -> Match:
    """Compare the keys and shapes of a checkpoint with what is needed.

    Args:
        held: released key -> shape.
        needed: our name -> shape.
        aliases: our second names of tied tensors -> first names; files may hold either or both.

    Raises:
        CheckpointError: two released keys lead to one of our names.
    """
    aliases = aliases or {}
    found: dict[str, str] = {}
    tied: dict[str, str] = {}
    left_over: list[str] = []
    for key in held:
        name = ours(key, rules) or ""
        if name in aliases:
            tied[aliases[name]] = key
        elif name not in needed:
            left_over += [] if key.endswith(BUFFERS) else [key]
        elif name in found:
            raise CheckpointError(f"{found[name]} and {key} both lead to {name}; the layout must tell them apart")
        else:
            found[name] = key
    pairs = {name: (tuple(held[key]), tuple(needed[name])) for name, key in {**tied, **found}.items()}
    return Match(
        found={**tied, **found},
        tied={name: key for name, key in tied.items() if name in found},
        missing=tuple(name for name in needed if name not in found and name not in tied),
        left_over=tuple(left_over),
        mismatched={name: (a, b) for name, (a, b) in pairs.items() if a != b},
    )


def looks_like(architectures: Iterable[str]) -> tuple[str, ...]:
    """Slugs of the systems of which a release, of any size, names one of these architectures in config.json."""
    wanted = set(architectures)
    return tuple(slug for slug in names("systems") if wanted & _architectures(system_of(slug)))


def _architectures(system: System) -> set[str]:
    sizes = (system, *(system.variant(name) for name in system.variants))
    return {name for size in sizes for name in size.layout.architectures}


def _few(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
