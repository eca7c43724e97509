"""Contracts of what media leave by: codecs, which also read them as tokens, diffusion models, and output forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from omniform.frozen import FrozenMap
from omniform.geometry import Grid, Hw, Sight, flat_rows
from omniform.part import Part, Rules


@dataclass(frozen=True, kw_only=True)
class Codec(Part):
    """A discrete tokenizer and de-tokenizer of one modality.

    An extent is what one medium measures: (height, width) in pixels, or (samples,). Its module makes media of one
    extent of views (`normalise`); encodes a batch of them to codes, `books` of them for each cell, cell after cell;
    decodes codes to media of a given extent; and renders the codes of one medium as something that can be saved. Where
    the extent does not fix their number (`counted`), `encode_each` gives the codes of each view as they are written.
    """

    modality: ClassVar[str]
    released: ClassVar[Rules] = ()
    """Key rules of the family's own public checkpoints."""
    errors: ClassVar[Mapping[str, float]] = FrozenMap()
    """Name -> usual factor of what its module's `errors(media)` gives when it learns by itself; empty where it cannot.
    Before a step, `renew(media)` may put unused entries where these media need some."""

    @property
    def writer(self) -> str:
        """What the field calls its second half, where it has a name of its own."""
        return self.title

    @property
    def codebook(self) -> int:
        """Entries of each book; codes are below it."""
        raise NotImplementedError

    @property
    def books(self) -> int:
        """Codes of one cell."""
        return 1

    @property
    def counted(self) -> bool:
        """Whether the extent alone says how many codes a medium has; otherwise it says how many at most."""
        return True

    @property
    def lent(self) -> Part | None:
        """The encoder that it reads media with, where that is a part of its own: the module of a continuous input of
        the same modality with an equal declaration is this one, too."""
        return None

    @property
    def feature_dim(self) -> int:
        """Channels of the map that it compares with its codebook, one row for each code; its module gives the map of a
        batch of media (`features`), and the codes of such maps (`nearest`). 0: it has none."""
        return 0

    @property
    def size(self) -> Grid:
        """Extent that its geometry was made for."""
        raise NotImplementedError

    @property
    def written(self) -> Grid:
        """Extent of what it renders, where none is asked for."""
        return self.size

    def sight(self, cells: Callable[[Hw], Grid]) -> Sight:
        """What views must know; `cells`: codes of a view."""
        raise NotImplementedError

    def extent(self, view: Hw) -> Grid:
        """Extent of what a view shows."""
        raise NotImplementedError

    def cells(self, extent: Grid) -> Grid:
        """Cells of one medium.

        Raises:
            SpecError: it reads media of its own extent only.
        """
        raise NotImplementedError

    def codes(self, extent: Grid) -> int:
        """Codes of one medium."""
        return flat_rows(self.cells(extent)) * self.books

    def num_params(self) -> int:
        raise NotImplementedError

    def flops(self, extent: Grid) -> int:
        """Forward FLOPs of encoding one medium."""
        raise NotImplementedError

    def decode_flops(self, extent: Grid) -> int:
        """Forward FLOPs of decoding one medium."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Diffusion(Part):
    """A diffusion model that makes one medium of a condition, and the condition that words would give.

    Its module: `condition(texts)` is what its own text encoder gives, (texts, positions, width); `noise_loss(condition,
    views)` how well the noise in media is told (one value each), `render(condition, ...)` a medium; `idle()` gives
    prefixes of parameters that the noise loss does not reach, and that do not learn.

    Attributes:
        guidance: published scale of classifier-free guidance.
        steps: published number of denoising steps.
    """

    modality: ClassVar[str]
    released: ClassVar[Rules] = ()
    """Key rules of the family's directories as diffusers writes them: component/key."""

    words: ClassVar[bool] = True
    """Whether it has a text encoder; without one the only words that have a condition are none."""

    guidance: float
    steps: int

    @property
    def first_stage(self) -> Codec | None:
        """The codec whose features it makes, where that is a part of its own (arXiv:2112.10752 section 3.1)."""
        return None

    @property
    def positions(self) -> int:
        """Positions of the condition."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Width of the condition."""
        raise NotImplementedError

    @property
    def size(self) -> Hw:
        """(height, width) of what it makes, in pixels."""
        raise NotImplementedError

    def sight(self) -> Sight:
        """What views must know to give pictures of that size."""
        return Sight(size=self.size, mean_rgb=(127, 127, 127), cells=lambda size: size)

    def num_params(self) -> int:
        """Parameters, without those of a first stage."""
        raise NotImplementedError

    def learnable_params(self) -> int:
        """Parameters that learn: the denoiser's."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OutputDecoder(Part):
    """One output form. Its module has four verbs: target, loss, embed, render; `build` takes `dim`, the backbone's."""

    form: ClassVar[Literal["text", "continuous", "discrete"]]
    """What the backbone emits for it; the system's output type follows from the forms present."""

    weight: float = 1.0
    """Factor of its loss in the sum."""

    @property
    def signal(self) -> tuple[str, ...]:
        """Special tokens that stand for one medium in the sequence; () where codes or words do."""
        return ()

    @property
    def said(self) -> int:
        """Leading tokens of the signal that text learns."""
        return len(self.signal)

    @property
    def aims(self) -> Any:
        """How a medium becomes what the losses see: views; None where its caption is enough."""
        return None

    @property
    def looks(self) -> str:
        """Input whose encoder sees what the losses compare with; "" where none does."""
        return ""

    def widths(self, dim: int, inputs: Mapping[str, Any]) -> dict[str, int]:
        """What `build` and `num_params` take beside a backbone of width `dim` and a system's inputs."""
        return {"dim": dim}

    @property
    def generator(self) -> Diffusion | None:
        """The diffusion model that is built with it and makes its media: part "MODALITY.diffusion"."""
        return None

    def num_params(self, dim: int) -> int:
        """Parameters of its own beside a backbone of width `dim`."""
        return 0
