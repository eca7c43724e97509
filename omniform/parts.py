"""The contracts that parts declare: plain data, geometry and cost, never torch.

A declaration knows what it is, how many cells it gives, how many parameters and FLOPs it takes, and how it shrinks.
The `nn.Module` it stands for is named by `implementation` and imported by `build`. Widths are never part of a
declaration when a neighbour already fixes them: they arrive as arguments.

FLOPs count a multiply-add as 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from omniform.frozen import FrozenMap
from omniform.geometry import Grid, Hw, MediaSize, Plan, Rgb, Sight, SpecError, conv_flops, flat_rows, vit_flops
from omniform.part import Part, Rules, Shrunk
from omniform.writing import Codec, Diffusion, OutputDecoder


@dataclass(frozen=True, kw_only=True)
class Encoder(Part):
    """Media -> continuous features."""

    modality: ClassVar[str] = "image"
    stored: ClassVar[Literal["uint8", "float32"]] = "uint8"
    together = 1  # views that become one set of features, such as frames read in pairs
    channels: ClassVar[tuple[int, ...]] = (3,)
    """Type of the numbers in a view, and what stands before (height, width) in its shape."""
    selects: ClassVar[bool] = False
    """Whether its module chooses, from a view's own features, which of its cells take positions (`choose`). Plans made
    without looking hold all of them, the most there can be; `data.choices` completes them."""
    released: ClassVar[Rules] = ()
    """Key rules of the family's own public checkpoints (what `from_pretrained` of a hub id would read)."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resample: Literal["bicubic", "bilinear"] = "bicubic"

    @property
    def dim(self) -> int:
        """Width of the features given."""
        raise NotImplementedError

    @property
    def size(self) -> Hw:
        """(height, width) of a view."""
        raise NotImplementedError

    @property
    def usual(self) -> MediaSize:
        """A medium of the size of one view."""
        return MediaSize(width=self.size[1], height=self.size[0])

    def sight(self, cells: Callable[[Hw], Grid]) -> Sight:
        """What views must know; `cells`: after the connector."""
        return Sight(size=self.size, mean_rgb=self.mean_rgb, cells=cells, together=self.together)

    @property
    def mean_rgb(self) -> Rgb:
        """The mean as an 8-bit colour, truncated as the original code bases do."""
        r, g, b = (int(255 * m) for m in self.mean)
        return r, g, b

    def cells(self, size: Hw) -> Grid:
        """Feature cells of one view of (height, width) pixels."""
        raise NotImplementedError

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of each encoder's features, where the declaration joins several."""
        return (self.dim,)

    def grids(self, size: Hw) -> tuple[Grid, ...]:
        """Cells of each encoder's features, where the declaration joins several."""
        return (self.cells(size),)

    def num_params(self) -> int:
        raise NotImplementedError

    def flops(self, size: Hw) -> int:
        """Forward FLOPs for one view."""
        raise NotImplementedError

    def learnable_params(self, first_layer: int = 0) -> int:
        """Parameters that the features depend on, from a layer on.

        Raises:
            SpecError: the encoder has no numbered layers.
        """
        if first_layer:
            raise SpecError(f"{type(self).__name__} has no numbered layers to choose from; train it whole")
        return self.num_params()


@dataclass(frozen=True, kw_only=True)
class Connector(Part):
    """Features -> features in the backbone's space.

    A connector that reads several encoders takes the other encoders' grids as further arguments of `cells` and `flops`,
    and their widths as `others` of `build`, `num_params` and `flops`; its module's `forward` takes their features one
    by one.
    """

    needs: ClassVar[int] = 1
    """How many encoders' features it reads."""

    def idle(self) -> tuple[tuple[str, int], ...]:
        """Prefixes and numbers of parameters that released weights hold but that nothing depends on."""
        return ()

    def cells(self, grid: Grid) -> Grid:
        """Cells after the connector.

        Raises:
            SpecError: the connector cannot read such a grid; the message says what would fit.
        """
        return grid

    def num_params(self, in_dim: int, out_dim: int) -> int:
        raise NotImplementedError

    def flops(self, grid: Grid, in_dim: int, out_dim: int) -> int:
        """Forward FLOPs for one view; exact for connectors whose parameters act once per output cell."""
        return 2 * flat_rows(self.cells(grid)) * self.num_params(in_dim, out_dim)


@dataclass(frozen=True, kw_only=True)
class Views(Part):
    """How one medium of any size becomes views and positions: pure geometry."""

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        """The exact views and positions of one medium.

        Raises:
            SpecError: strategy, encoder and connector do not fit together.
        """
        raise NotImplementedError

    one_size: ClassVar[bool] = False
    """Whether media of any size become views of the encoder's size."""

    def among(self, count: int) -> Views:
        """The strategy for a document that holds `count` media; most do not care."""
        return self

    def rescaled(self, old: int, new: int) -> Self:
        """The same strategy for an encoder whose views shrink from side `old` to side `new`."""
        return self

    @property
    def scales(self) -> int:
        """How many scales of one picture are joined on channels before the connector."""
        return 1

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the learned rows (newline ...) that plans may place."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Fusion(Part):
    """How an input's rows meet the backbone."""

    in_sequence: ClassVar[bool] = True
    """Whether rows take positions. Else the medium is seen from the last position of the text before it on."""
    whole_document: ClassVar[bool] = False
    """Whether every position of a document sees its media, those before them too (only out of sequence)."""
    copies: ClassVar[bool] = False
    """Whether it begins as a copy of weights of the backbone; its module's `copy(backbone)` takes them anew."""

    def check(self, backbone: Backbone) -> None:
        """Refuse (with SpecError) backbones whose layers it cannot reach."""

    def width(self, features: int, dim: int) -> int:
        """Width of the rows it reads (the connector's) of such features, beside a backbone of width `dim`."""
        return dim

    def num_params(self, backbone: Backbone, width: int) -> int:
        return 0

    def learnable_params(self, backbone: Backbone, width: int) -> int:
        """Parameters that the output depends on."""
        return self.num_params(backbone, width)

    def flops(self, backbone: Backbone, width: int, positions: int, rows: int) -> int:
        """Forward FLOPs that it adds where the backbone reads `positions` that see `rows` of media."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Backbone(Part):
    """The language model."""

    trees: ClassVar[bool] = True
    """Whether branches may share one trunk in a packed sequence with exact results."""
    position_axes: ClassVar[int] = 1
    """Axes of its position ids."""
    memory: ClassVar[Literal["keys", "state"]] = "keys"
    """What it keeps of positions already read: keys and values of each, or a state of fixed size for each row."""
    released: ClassVar[Rules] = (("", "lm."),)
    """Key rules of the family's own public checkpoints."""
    model_type: ClassVar[str] = ""
    """transformers' name of the family, where its causal language model is what the module wraps."""
    start_id: ClassVar[int | None] = None
    """Token that a decoder begins with where an encoder reads the prompt, bidirectionally and apart from the answer.
    Such a document is two nodes of the tree: the prompt, and below it this token and the answer. None: one sequence."""

    dim: int
    layers: int
    vocab: int
    context: int
    """Longest sequence it was trained for, in positions."""

    @property
    def experts_part(self) -> Part | None:
        """Experts that stand in the place of some of its MLPs; a part of it, "backbone.experts", that learns alone."""
        return None

    @property
    def tables(self) -> int:
        """How many tables have a row for each token: one where the output head is the embedding."""
        return 2

    @property
    def losses(self) -> Mapping[str, float]:
        """Name of each loss of its own (routers ...) -> its factor in the sum."""
        return FrozenMap()

    def num_params(self) -> int:
        raise NotImplementedError

    def active_params(self) -> int:
        """Parameters that one position passes through, embedding and head included."""
        return self.num_params()

    def flops_per_position(self) -> int:
        """Forward FLOPs of one position, attention over the context excluded."""
        raise NotImplementedError

    def attention_flops(self, queries: int, keys: int) -> int:
        """Forward FLOPs of attending `queries` positions to `keys` positions, all layers."""
        raise NotImplementedError

    def read_flops(self, positions: int) -> int:
        """Forward FLOPs of reading a prompt, up to the hidden state that the first token of the answer follows from."""
        return positions * self.flops_per_position() + self.attention_flops(positions, positions)

    def next_flops(self, prompt: int, answer: int = 0) -> int:
        """Forward FLOPs of one more position after a prompt and `answer` tokens of the answer."""
        return self.flops_per_position() + self.attention_flops(1, prompt + answer + 1)

    def layer_linear_params(self) -> int:
        """Parameters of the linear modules of one layer."""
        raise NotImplementedError

    def twin_params(self, qkv_bias: bool = False) -> tuple[int, int]:
        """Parameters of the linear modules of one layer that give keys and values, and of its others.

        Args:
            qkv_bias: whether biases of queries, keys and values count where they have none.

        Raises:
            SpecError: they are no modules of their own.
        """
        raise SpecError(f"{type(self).__name__} does not say which of its modules give keys and values")

    def head_flops(self) -> int:
        """Forward FLOPs of the logits of one position."""
        return 2 * self.dim * self.vocab

    def kv_bytes_per_position(self, bytes_per_value: int) -> int:
        raise NotImplementedError

    def state_bytes(self, bytes_per_value: int) -> int:
        """Bytes kept of a row however long it is."""
        return 0

    def learnable_params(self, first_layer: int = 0) -> int:
        """Parameters from a layer on; from layer 0 on those outside the layers too."""
        raise NotImplementedError

    def lora_params(self, rank: int) -> int:
        """Parameters of low-rank adapters on all linear layers but the output head."""
        raise NotImplementedError

    def named_linears(self) -> Mapping[str, tuple[int, int]]:
        """Name in every layer -> (in, out) of its linear modules.

        Raises:
            SpecError: their names are not known.
        """
        raise SpecError(f"the names of the linear layers of {self.title} are not known; give adapters to all of them")

    def activation_values(self, learns: bool) -> int:
        """Values that one layer keeps for the backward pass, for each position; fewer where its weights are frozen."""
        raise NotImplementedError


__all__ = [
    "Backbone", "Codec", "Connector", "Diffusion", "Encoder", "Fusion", "OutputDecoder",
    "Part", "Rules", "Shrunk", "Sight", "SpecError", "Views", "conv_flops", "vit_flops",
]  # fmt: skip
