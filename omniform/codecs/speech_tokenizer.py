"""SpeechTokenizer (arXiv:2308.16692): residual books of speech of which the first holds what is said.

ZhangXInFD/SpeechTokenizer@30c96fb speechtokenizer/model.py, modules/{seanet,conv,lstm}.py, config/spt_base_cfg.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from omniform.codecs.encodec import Conv, Encodec
from omniform.geometry import SpecError
from omniform.parts import Shrunk


@dataclass(frozen=True, kw_only=True)
class SpeechTokenizer(Encodec):
    """EnCodec's layers, those before the books recurrent both ways; a last frame that is not full is filled up.

    Attributes:
        semantic: width of HuBERT's features, which the first book's entries are projected to where it is taught.
    """

    implementation = "omniform.codecs.speech_tokenizer_module:SpeechTokenizerModule"

    rate: int = 16000
    filters: int = 64
    dim: int = 1024
    streams: int = 1
    held: int = 8
    causal: bool = False
    semantic: int = 768

    def __post_init__(self) -> None:
        if not 1 <= self.streams <= self.held:
            raise SpecError(f"{self.streams} streams of {self.held} books; use 1 to {self.held}")

    @property
    def title(self) -> str:
        return "SpeechTokenizer"

    def recurrent(self) -> tuple[int, int]:
        dim = self.inner
        both = sum(2 * 4 * dim * ((dim if layer == 0 else 2 * dim) + dim) for layer in range(self.lstm))
        return both, super().recurrent()[1]

    def num_params(self) -> int:
        # the layers that are recurrent the other way have biases, too
        return super().num_params() + self.lstm * 8 * self.inner + (self.dim + 1) * self.semantic

    def _encoder(self) -> Iterator[Conv]:
        *convs, (kernel, channels, dim, each) = super()._encoder()
        yield from (*convs, (kernel, 2 * channels, dim, each))

    def shrunk(self, size: Shrunk) -> Self:
        return super().shrunk(size).but(semantic=6 if size == "tiny" else 32)


SPEECH_TOKENIZER = SpeechTokenizer()
"""speechtokenizer_hubert_avg; `streams` says how many of its 8 books a system uses."""
