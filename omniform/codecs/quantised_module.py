"""Module of `codecs.quantised`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from omniform.batch import Features
from omniform.codecs.painter_module import Condition, pictures
from omniform.codecs.quantised import Quantised
from omniform.geometry import Grid, SpecError


class QuantisedModule(nn.Module):
    """Pictures to codes and back.

    Args:
        encoder: the one that the system reads pictures with, where it lends it.
    """

    def __init__(self, spec: Quantised, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.encoder: Any = spec.encoder.build() if encoder is None else encoder
        self.connector: Any = spec.connector.build(in_dim=spec.encoder.dim, out_dim=spec.dim)
        self.quantize = Codebook(spec.entries, spec.dim)
        self.detokenizer: Any = spec.detokenizer.build(codes=spec.codes(spec.size), in_dim=spec.dim)
        self.painter: Any = spec.painter.build()

    # -- to codes --

    def normalise(self, views: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 height width"]:
        normal: Tensor = self.encoder.normalise(views)
        return normal

    def compared(
        self, pixels: Float[Tensor, "n 3 height width"], kept: Bool[Tensor, "n cells"] | None = None
    ) -> Float[Tensor, "n codes dim"]:
        """What the codebook is compared with; `kept` are the cells that the encoder chose."""
        features = self.encoder(pixels)
        return self.connector(Features(features.values, features.grid, kept)).values

    def encode(
        self, pixels: Float[Tensor, "n 3 height width"], kept: Bool[Tensor, "n cells"] | None = None
    ) -> Int[Tensor, "n codes"]:
        """A code of every cell; where the encoder chooses, those of dropped cells say nothing."""
        z = self.compared(pixels, kept)
        return self.quantize.nearest(F.normalize(z.float(), dim=-1) if self.spec.unit else z)

    def encode_each(self, views: UInt8[Tensor, "n 3 height width"]) -> list[Int[Tensor, " codes"]]:
        """Codes of each picture as they are written: of the cells that are kept, row-major."""
        if self.spec.counted:
            return list(self.encode(self.normalise(views)))
        kept = self.encoder.choose(views)
        codes = self.encode(self.normalise(views), kept)
        return [row[own] for row, own in zip(codes, kept, strict=True)]

    # -- and back --

    def condition(self, codes: Sequence[Int[Tensor, " _codes"]]) -> Condition:
        """What the painter reads for the codes of several pictures.

        Raises:
            SpecError: no codes, or more than a picture has.
        """
        most, fixed = self.spec.codes(self.spec.size), self.spec.counted
        for own in codes:
            if not (most if fixed else 1) <= len(own) <= most:
                raise SpecError(f"{len(own)} codes, but a picture has {most if fixed else f'1 to {most}'}")
        entries = pad_sequence([self.quantize.embedding(own) for own in codes], batch_first=True)
        held = pad_sequence([torch.ones_like(own, dtype=torch.bool) for own in codes], batch_first=True)
        return self.detokenizer(entries, held)

    def decode(self, codes: Int[Tensor, "n codes"], extent: Grid) -> Float[Tensor, "n 3 height width"]:
        """Pictures of (height, width), about -1 to 1; the same codes always give the same one."""
        seeds = [zlib.crc32(own.cpu().numpy().tobytes()) for own in codes]
        return self.painter.paint(self.condition(list(codes)), extent, seeds)

    @torch.inference_mode()
    def render(self, codes: Int[Tensor, " codes"], extent: Grid | None = None) -> Image.Image:
        """The picture of one medium's codes, of the painter's size unless another is given."""
        return pictures(self.decode(codes[None], extent or self.spec.written))[0]


class Codebook(nn.Module):
    """Entries, and the nearest of them to a vector by the distance between them."""

    def __init__(self, entries: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, dim)
        with torch.no_grad():
            self.embedding.weight.copy_(F.normalize(self.embedding.weight, dim=-1))

    def nearest(self, z: Float[Tensor, "n codes dim"]) -> Int[Tensor, "n codes"]:
        table = self.embedding.weight.float()
        return (table.square().sum(1) - 2 * z.float() @ table.T).argmin(-1)
