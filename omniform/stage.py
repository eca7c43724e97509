"""How a system was trained, and where that is written: stages, the parts that learn in them, sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from omniform.frozen import FrozenMap
from omniform.parts import Views
from omniform.prompt import Prompt


@dataclass(frozen=True)
class Undisclosed:
    """A value that was never published. It is never replaced by a guess; a recipe must give one."""

    note: str = ""

    def for_all(self) -> dict[str, Any]:
        """All numbers of a `Stage` but its learning rates, where none was published."""
        return dict.fromkeys(("batch", "epochs", "schedule", "warmup", "weight_decay", "max_positions"), self)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the choices come from: paper, and public code as "owner/repo@commit file:lines"."""

    paper: str
    code: str = ""
    notes: str = ""


@dataclass(frozen=True, kw_only=True)
class Learn:
    """One part that learns in a stage.

    Attributes:
        part: path of the part, e.g. "image.connector", "image.encoder", "backbone".
        lr: peak learning rate.
        first_layer: only layers from this one on learn (encoders and backbones).
        tokens: only the embeddings of these special tokens learn (the backbone), without decay; a tied head's rows are
            the same.
        head: whether their rows of an untied output head learn too.
        weight_decay: of this part, where it is not the stage's.
    """

    part: str
    lr: float | Undisclosed
    first_layer: int = 0
    tokens: tuple[str, ...] = ()
    head: bool = False
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on a part's linear layers, merged into them when the stage ends (arXiv:2106.09685).

    Attributes:
        layers: names of the linear layers that have some, such as "q_proj"; () is all but the output head.
    """

    part: str = "backbone"
    layers: tuple[str, ...] = ()
    rank: int
    alpha: float
    dropout: float = 0.0
    lr: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One phase of training.

    Attributes:
        batch: documents per optimizer step.
        steps: optimizer steps, where the length was published so; epochs are not read then.
        warmup: fraction of the steps over which the learning rate rises.
        max_positions: longest document kept, media included.
        outputs: those whose losses count; () is all.
        views: modality -> views that replace the system's in this stage.
        experts: "joined" where a backbone's experts are still one MLP each, of which all are copies when it ends.
    """

    name: str
    learn: tuple[Learn, ...]
    data: str
    batch: int | Undisclosed
    epochs: float | Undisclosed = 1.0
    steps: int | None = None
    schedule: Literal["cosine", "linear", "constant"] | Undisclosed = "cosine"
    warmup: float | Undisclosed = 0.03
    weight_decay: float | Undisclosed = 0.0
    clip_norm: float = 1.0
    max_positions: int | Undisclosed = 2048
    lora: Lora | None = None
    prompt: Prompt | None = None
    outputs: tuple[str, ...] = ()
    views: Mapping[str, Views] = FrozenMap()
    experts: Literal["apart", "joined"] = "apart"
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", FrozenMap(self.views))
