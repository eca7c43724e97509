"""Media that are told along with an answer: pieces while its words come, and the whole when it ends."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from omniform.data.document import Media
from omniform.inference.cache import KeyValues


class Voice:
    """One answer's medium, told from the hidden states that its tokens follow from.

    What has been told never changes, so states are read once. Without pieces they are read together in the end.

    Args:
        decoder: module of an output that tells along (`parts.OutputDecoder.along`).
        codec: module that makes media of its units.
        pieces: whether pieces are given out while the answer goes on.
    """

    def __init__(self, modality: str, decoder: Any, codec: Any, *, pieces: bool) -> None:
        self.modality, self.decoder, self.codec = modality, decoder, codec
        self.cache = KeyValues() if pieces else None
        self.units: list[int] = []
        self._waiting: list[Tensor] = []
        self._read = self._given = 0
        self._last: int | None = None

    def hear(self, hidden: Float[Tensor, " dim"], *, last: bool) -> Media | None:
        """The state that one more token followed from; a piece that it completes. The last one completes the rest."""
        self._waiting.append(hidden)
        if self.cache is None and not last:
            return None
        self._tell()
        new = self.units[self._given :]
        if self.cache is None or not new or not (last or len(new) >= self.decoder.spec.piece):
            return None
        self._given = len(self.units)
        return self._media(new)

    def whole(self) -> Media | None:
        """The medium told so far; None where nothing was."""
        return self._media(self.units) if self.units else None

    def _tell(self) -> None:
        symbols = self.decoder.symbols(torch.stack(self._waiting), self.cache, self._read).tolist()
        self._read += len(self._waiting)
        self._waiting.clear()
        self.units += self.decoder.units(symbols, self._last)
        self._last = symbols[-1]

    def _media(self, units: list[int]) -> Media:
        return Media(self.modality, self.decoder.render(self.codec, units), "assistant")
