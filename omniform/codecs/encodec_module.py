"""Module of `codecs.encodec`."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

from omniform.codecs.encodec import Encodec
from omniform.codecs.wave_module import WaveCodec, fitted
from omniform.geometry import Grid, SpecError


class EncodecModule(WaveCodec):
    """Waveforms to codes and back; codes stand frame after frame, the books of a frame side by side."""

    def __init__(self, spec: Encodec) -> None:
        super().__init__(spec)
        self.model = EncodecModel(EncodecConfig(**spec.config()))

    def encode(self, wave: Float[Tensor, "n samples"]) -> Int[Tensor, "n codes"]:
        latents = self.model.encoder(wave[:, None])
        books: Any = self.model.quantizer.layers[: self.spec.streams]
        codes, rest = [], latents
        for book in books:
            codes.append(book.encode(rest))
            rest = rest - book.decode(codes[-1])
        return torch.stack(codes, dim=-1).flatten(1)

    def decode(self, codes: Int[Tensor, "n codes"], extent: Grid | None = None) -> Float[Tensor, "n samples"]:
        """Waveforms, cut to the extent.

        Raises:
            SpecError: codes of other than whole frames, or of another extent.
        """
        books = self.spec.streams
        expected = codes.shape[1] // books * books if extent is None else self.spec.codes(extent)
        if codes.shape[1] != expected or not expected:
            raise SpecError(f"{codes.shape[1]} codes of {books} books, but {expected or books} are needed")
        streams = codes.unflatten(1, (-1, books)).unbind(-1)
        layers: Any = self.model.quantizer.layers
        latents = torch.stack([layers[i].decode(stream) for i, stream in enumerate(streams)]).sum(0)
        return fitted(self.model.decoder(latents)[:, 0], extent)
