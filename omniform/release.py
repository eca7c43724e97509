"""How a released checkpoint differs from ours: names, places, and forms of its tensors, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from omniform.frozen import FrozenMap
from omniform.parts import Rules


@dataclass(frozen=True, kw_only=True)
class Recast:
    """Tensors that a release holds in another form than ours (`weights.recast`).

    Attributes:
        ends: endings of our names.
        form: "paired": the channels of a head that are rotated together are neighbours there, a half apart here.
            "paired shared": so, and one row there stands for all heads. "lone row": (1, 1, width) there, (width,) here.
            "last rows": it holds the last `rows` of a table, whose others lie in a separate repository.
        divisor: what the released code divides such a tensor by each time, done once here.
    """

    ends: tuple[str, ...]
    form: Literal["paired", "paired shared", "lone row", "last rows"]
    divisor: float = 1.0
    rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Modules of ours whose tensors a release holds as one, row after row (`weights.recast`).

    Attributes:
        parts: endings of their names, such as "self_attn.q_proj", in the order of the rows.
        whole: what the key rules call the one in their place.
        under: our prefix of the modules, where others end alike.
        grouped: whether the rows of each key-value head stand together: its queries, its key, its value
            (InternLM2; ModelTC/lightllm lightllm/models/internlm2/layer_weights), instead of all queries, keys, values.
    """

    parts: tuple[str, ...]
    whole: str
    under: str = ""
    grouped: bool = False


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """Low-rank adapters of the language model that a release holds, added to its weights when these are read.

    Attributes:
        layers: names of the linear layers that have some, such as "q_proj".
        rank, alpha: what an adapter adds is scaled by alpha / rank.
        prefix: before the keys of the weights they belong to; peft's.
    """

    layers: tuple[str, ...]
    rank: int
    alpha: float
    prefix: str = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the released checkpoint names its tensors.

    Attributes:
        rules: ordered (released prefix, our prefix); the first match applies, both ways.
        separate: our prefix -> hub id of another repository that holds these weights in the release.
        named_in: our prefix -> key of config.json that names the other repository, where `separate` does not or a
            release has another; a path within the release is allowed too.
        separate_rules: hub id of another repository -> key rules between it and us, where its keys are not simply ours
            behind the prefix.
        configured: whether releases hold a config.json; else their sizes go by the name of the variant.
        folders: sub-folders that are checkpoints of their own; keys read as "folder/key".
        architectures: what "architectures" in a release's config.json says, so that errors can tell whose it is.
        transformers: class of transformers that computes the same, for the sizes that fit it (`weights.export`).
        recast: tensors that differ in more than their name.
        joined: modules whose tensors are one there.
        adapters: those that the release holds beside weights, which may lie elsewhere.
    """

    rules: Rules
    separate: Mapping[str, str] = FrozenMap()
    separate_rules: Mapping[str, Rules] = FrozenMap()
    named_in: Mapping[str, str] = FrozenMap()
    configured: bool = True
    folders: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    transformers: str = ""
    recast: tuple[Recast, ...] = ()
    joined: tuple[Joined, ...] = ()
    adapters: Adapters | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "separate", FrozenMap(self.separate))
        object.__setattr__(self, "separate_rules", FrozenMap(self.separate_rules))
        object.__setattr__(self, "named_in", FrozenMap(self.named_in))
