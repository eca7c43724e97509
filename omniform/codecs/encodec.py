"""EnCodec (arXiv:2210.13438): a convolutional codec of sound with residual codebooks, run by transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Self

from omniform.codecs.families import AudioCodec
from omniform.geometry import Grid, SpecError, conv1d_flops
from omniform.parts import Shrunk

Conv = tuple[int, int, int, int]
"""(kernel, in, out, samples that an output cell stands for) of one convolution."""


@dataclass(frozen=True, kw_only=True)
class Encodec(AudioCodec):
    """`streams` codes for each frame, each of a book of its own.

    Attributes:
        ratios: of the upsampling layers; a frame is their product in samples.
        filters: channels of the first layer; each halving of the rate doubles them.
        dim: width of a codebook entry.
        entries: of each book.
        streams: books used; more of them are held by the released weights, which `held` counts.
        residuals: residual blocks of a level.
        lstm: layers of the recurrent network in the middle.
        causal: whether a sample depends on those before it only.
        shortcut: whether residual blocks have a convolution beside them.
    """

    implementation = "omniform.codecs.encodec_module:EncodecModule"

    rate: int = 24000
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    filters: int = 32
    dim: int = 128
    entries: int = 1024
    streams: int = 8
    held: int = 32
    residuals: int = 1
    lstm: int = 2
    causal: bool = True
    shortcut: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.streams <= self.held:
            raise SpecError(f"{self.streams} streams of {self.held} books; use 1 to {self.held}")
        if self.entries.bit_count() != 1:
            raise SpecError(f"books of {self.entries} entries; give a power of 2")

    @property
    def title(self) -> str:
        return "Encodec"

    @property
    def codebook(self) -> int:
        return self.entries

    @property
    def books(self) -> int:
        return self.streams

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return prod(self.ratios)

    def cells(self, extent: Grid) -> Grid:
        return (-(-extent[0] // self.hop),)

    # -- cost --

    def _encoder(self) -> Iterator[Conv]:
        channels, each = self.filters, 1
        yield 7, 1, channels, each
        for ratio in reversed(self.ratios):
            yield from self._residual(channels, each)
            each *= ratio
            yield 2 * ratio, channels, 2 * channels, each
            channels *= 2
        yield 7, channels, self.dim, each

    def _decoder(self) -> Iterator[Conv]:
        channels, each = self.filters * 2 ** len(self.ratios), self.hop
        yield 7, self.dim, channels, each
        for ratio in self.ratios:
            yield 2 * ratio, channels, channels // 2, each  # transposed: a cell of the input at a time
            channels, each = channels // 2, each // ratio
            yield from self._residual(channels, each)
        yield 7, channels, 1, each

    def _residual(self, channels: int, each: int) -> Iterator[Conv]:
        for _ in range(self.residuals):
            yield 3, channels, channels // 2, each
            yield 1, channels // 2, channels, each
            if self.shortcut:
                yield 1, channels, channels, each

    @property
    def inner(self) -> int:
        """Channels of the recurrent network."""
        return self.filters * 2 ** len(self.ratios)

    def num_params(self) -> int:
        convs = sum(k * a * b + 2 * b for k, a, b, _ in (*self._encoder(), *self._decoder()))
        # a transposed convolution is normed for each input channel, of which it has twice as many
        convs += sum(self.inner // 2 ** (i + 1) for i in range(len(self.ratios)))
        return convs + sum(self.recurrent()) + 2 * self.lstm * 8 * self.inner

    def recurrent(self) -> tuple[int, int]:
        """Weights of the recurrent networks of encoder and decoder, biases not counted."""
        one = self.lstm * 8 * self.inner**2
        return one, one

    def flops(self, extent: Grid) -> int:
        frames = self.cells(extent)[0]
        books = 2 * frames * self.streams * self.dim * self.entries
        return self._sum(self._encoder(), frames, self.recurrent()[0]) + books

    def decode_flops(self, extent: Grid) -> int:
        return self._sum(self._decoder(), self.cells(extent)[0], self.recurrent()[1])

    def _sum(self, convs: Iterator[Conv], frames: int, recurrent: int) -> int:
        return 2 * frames * recurrent + sum(conv1d_flops(frames * self.hop // each, k, a, b) for k, a, b, each in convs)

    # -- sizes --

    def shrunk(self, size: Shrunk) -> Self:
        if size == "tiny":
            return self.but(
                rate=80, ratios=(4, 2), filters=4, dim=6, entries=16, streams=min(self.streams, 2), held=2, lstm=1
            )
        return self.but(
            rate=4000, ratios=(8, 4), filters=8, dim=32, entries=64, streams=min(self.streams, 4), held=4, lstm=1
        )

    # -- transformers --

    def config(self) -> dict[str, Any]:
        """Arguments of `EncodecConfig`; the bandwidth says how many books there are."""
        bits = (self.entries - 1).bit_length()
        per_book = bits * -(-self.rate // self.hop) / 1000
        return {
            "sampling_rate": self.rate, "upsampling_ratios": list(self.ratios), "num_filters": self.filters,
            "hidden_size": self.dim, "codebook_dim": self.dim, "codebook_size": self.entries,
            "num_residual_layers": self.residuals, "num_lstm_layers": self.lstm, "use_causal_conv": self.causal,
            "use_conv_shortcut": self.shortcut, "audio_channels": 1, "normalize": False, "chunk_length_s": None,
            "target_bandwidths": [per_book * self.held],
        }  # fmt: skip


ENCODEC_24K = Encodec()
"""facebook/encodec_24khz at 6 kb/s."""
ENCODEC_32K = Encodec(
    rate=32000, ratios=(8, 5, 4, 4), filters=64, entries=2048, streams=4, held=4, causal=False, shortcut=False
)
"""facebook/encodec_32khz, made for music (arXiv:2306.05284)."""
