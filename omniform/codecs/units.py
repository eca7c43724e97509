"""Speech units: HuBERT features, the nearest of k means, and a HiFi-GAN that speaks them.

arXiv:2106.07447 (HuBERT), arXiv:2104.00355 (resynthesis), arXiv:2204.02967 (durations); the vocoder's layers as in
facebookresearch/fairseq v0.12.2 fairseq/models/text_to_speech/{codehifigan,hifigan}.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Self

from omniform.codecs.families import AudioCodec
from omniform.frozen import FrozenMap
from omniform.geometry import Grid, SpecError, conv1d_flops, vit_flops
from omniform.parts import Part, Shrunk

Conv = tuple[int, int, int, int]
"""(kernel, in, out, rate) of one convolution, the rate in output cells for each frame."""


@dataclass(frozen=True, kw_only=True)
class Vocoder(Part):
    """Units -> waveform.

    Attributes:
        dim: width of a unit's embedding.
        width: channels before the first upsampling; each halves them.
        rates, kernels: of the upsampling layers.
        block_kernels, dilations: of the residual blocks behind each, whose outputs are averaged.
        durations: channels of the predictor of how many frames a unit lasts; 0 where every unit is one frame.
        duration_kernel: of its convolutions.
    """

    implementation = "omniform.codecs.units_module:VocoderModule"

    dim: int = 128
    width: int = 512
    rates: tuple[int, ...] = (5, 4, 4, 2, 2)
    kernels: tuple[int, ...] = (11, 8, 8, 4, 4)
    block_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    durations: int = 128
    duration_kernel: int = 3

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.kernels) or len(self.block_kernels) != len(self.dilations):
            raise SpecError(
                f"{len(self.rates)} rates and {len(self.kernels)} kernels, {len(self.block_kernels)} block kernels and "
                f"{len(self.dilations)} dilations: each pair must be of one length"
            )

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return prod(self.rates)

    def convs(self) -> Iterator[Conv]:
        """Of the generator: all are normed by weight, so that each has one more number for each output channel."""
        channels, rate = self.width, 1
        yield 7, self.dim, channels, rate
        for up, kernel in zip(self.rates, self.kernels, strict=True):
            yield kernel, channels, channels // 2, rate  # transposed: a cell of the input at a time
            channels, rate = channels // 2, rate * up
            for block, dilations in zip(self.block_kernels, self.dilations, strict=True):
                yield from [(block, channels, channels, rate)] * 2 * len(dilations)
        yield 7, channels, 1, rate

    def num_params(self, units: int) -> int:
        generator = sum(k * a * b + b + b for k, a, b, _ in self.convs())
        # a transposed convolution is normed for each input channel
        generator += sum(self.width // 2**i - self.width // 2 ** (i + 1) for i in range(len(self.rates)))
        hidden, kernel = self.durations, self.duration_kernel
        predictor = kernel * hidden * (self.dim + hidden) + 2 * hidden + 4 * hidden + hidden + 1 if hidden else 0
        return units * self.dim + generator + predictor

    def flops(self, frames: int, units: int) -> int:
        hidden, kernel = self.durations, self.duration_kernel
        predictor = conv1d_flops(units, kernel, self.dim + hidden, hidden) + 2 * units * hidden
        return predictor + sum(conv1d_flops(frames * rate, k, a, b) for k, a, b, rate in self.convs())


@dataclass(frozen=True, kw_only=True)
class Units(AudioCodec):
    """One unit for each frame, runs of equal units merged to one where `merged`.

    Attributes:
        dim, layers, heads, mlp_dim: of HuBERT.
        layer: whose output is compared with the means; the layers behind it are held, but not run.
        kernels, strides, channels: of its convolutions on the waveform.
        position_kernel, position_groups: of its convolutional positions.
        normalised: whether each waveform is brought to mean 0 and variance 1.
        chunk: most samples that HuBERT hears at once; a longer waveform is heard in parts, one after the other.
        units: number of means.
        vocoder: what speaks them.
    """

    implementation = "omniform.codecs.units_module:UnitsModule"

    rate: int = 16000
    dim: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    layer: int = 11
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    channels: int = 512
    position_kernel: int = 128
    position_groups: int = 16
    normalised: bool = False
    chunk: int = 1_600_000
    units: int = 1000
    merged: bool = True
    vocoder: Vocoder = Vocoder()

    def __post_init__(self) -> None:
        if not 1 <= self.layer <= self.layers:
            raise SpecError(f"features of layer {self.layer}, but HuBERT has layers 1 to {self.layers}")
        if self.chunk < 1:
            raise SpecError(f"chunk {self.chunk}: HuBERT must hear at least 1 sample at once")
        if prod(self.strides) != self.vocoder.hop:
            raise SpecError(
                f"HuBERT's frames are {prod(self.strides)} samples, the vocoder's {self.vocoder.hop}; "
                "strides and rates must have one product"
            )

    @property
    def title(self) -> str:
        return "HuBERT"

    @property
    def writer(self) -> str:
        return "Unit Vocoder"

    @property
    def codebook(self) -> int:
        return self.units

    @property
    def counted(self) -> bool:
        return not self.merged

    @property
    def shortest(self) -> int:
        """Samples of one frame: what the convolutions see of the waveform."""
        seen = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            seen = (seen - 1) * stride + kernel
        return seen

    def heard(self, samples: int) -> list[int]:
        """Samples of each part of a waveform that is heard at once."""
        whole, rest = divmod(samples, self.chunk)
        return [self.chunk] * whole + [rest] * bool(rest)

    def cells(self, extent: Grid) -> Grid:
        """Frames; what is shorter than one frame is filled up with silence."""
        return (sum(self._lengths(part)[-1] for part in self.heard(extent[0])),)

    def _lengths(self, samples: int) -> list[int]:
        """Cells behind each convolution on a waveform that is heard at once."""
        lengths = [max(samples, self.shortest)]
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            lengths.append((lengths[-1] - kernel) // stride + 1)
        return lengths[1:]

    # -- cost --

    def num_params(self) -> int:
        convs = (
            self.channels * sum(k * (1 if i == 0 else self.channels) for i, k in enumerate(self.kernels))
            + 2 * self.channels
        )  # the first one is followed by a group norm
        project = 2 * self.channels + (self.channels + 1) * self.dim
        positions = (
            self.dim * (self.dim // self.position_groups) * self.position_kernel + self.dim + self.position_kernel
        )
        layer = 4 * self.dim * (self.dim + 1) + 2 * self.dim * self.mlp_dim + self.mlp_dim + self.dim + 4 * self.dim
        hubert = convs + project + positions + 2 * self.dim + self.layers * layer + self.dim  # and the mask's row
        return hubert + self.units * self.dim + self.vocoder.num_params(self.units)

    def flops(self, extent: Grid) -> int:
        return sum(map(self._part_flops, self.heard(extent[0])))

    def _part_flops(self, samples: int) -> int:
        """Forward FLOPs of what is heard at once."""
        lengths, widths = self._lengths(samples), (1, *[self.channels] * len(self.kernels))
        sized = zip(lengths, self.kernels, widths, strict=False)
        total = sum(conv1d_flops(cells, kernel, a, self.channels) for cells, kernel, a in sized)
        length = lengths[-1]
        total += 2 * length * self.channels * self.dim
        total += conv1d_flops(length, self.position_kernel, self.dim // self.position_groups, self.dim)
        return total + vit_flops(length, self.layer, self.dim, self.mlp_dim) + 2 * length * self.dim * self.units

    def decode_flops(self, extent: Grid) -> int:
        frames = self.cells(extent)[0]
        return self.vocoder.flops(frames, frames)

    # -- sizes --

    def shrunk(self, size: Shrunk) -> Self:
        tiny = size == "tiny"
        width = 16 if tiny else 64
        vocoder = self.vocoder.but(
            dim=width // 2, width=width, rates=(4, 2), kernels=(8, 4), block_kernels=(3,), dilations=((1, 3),),
            durations=8 if self.vocoder.durations else 0,
        )  # fmt: skip
        return self.but(
            rate=80 if tiny else 4000, chunk=8000 if tiny else 400_000,
            dim=width, layers=2, heads=2, mlp_dim=2 * width, layer=min(self.layer, 1),
            kernels=(6, 2), strides=(4, 2), channels=width, position_kernel=4, position_groups=2,
            units=12 if tiny else 50, vocoder=vocoder,
        )  # fmt: skip

    # -- transformers --

    def config(self) -> dict[str, Any]:
        """Arguments of `HubertConfig`."""
        return {
            "hidden_size": self.dim, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "intermediate_size": self.mlp_dim, "conv_dim": [self.channels] * len(self.kernels),
            "conv_kernel": list(self.kernels), "conv_stride": list(self.strides),
            "num_feat_extract_layers": len(self.kernels), "num_conv_pos_embeddings": self.position_kernel,
            "num_conv_pos_embedding_groups": self.position_groups, **STILL,
        }  # fmt: skip


STILL: Mapping[str, Any] = FrozenMap(
    hidden_dropout=0.0, activation_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
    apply_spec_augment=False,
)  # fmt: skip
"""Nothing random: units are read, not learned."""

MHUBERT_KM1000 = Units()
"""mHuBERT of three languages, layer 11, 1,000 means, and its vocoder (arXiv:2204.02967)."""
