"""Module of `codecs.speech_tokenizer`; parameter names are those of the public checkpoints."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from omniform.codecs.speech_tokenizer import SpeechTokenizer
from omniform.codecs.units_module import NormedConv
from omniform.codecs.wave_module import WaveCodec, fitted
from omniform.geometry import Grid, SpecError


class Conv(nn.Module):
    """A convolution over a waveform continued by reflection, so that the last window is full."""

    def __init__(self, a: int, b: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride, self.total = kernel, stride, (kernel - 1) * dilation - (stride - 1)
        self.conv = nn.ModuleDict({"conv": NormedConv(a, b, kernel, stride=stride, dilation=dilation, padding=0)})

    def forward(self, x: Float[Tensor, "n a length"]) -> Float[Tensor, "n b shorter"]:
        length, right = x.shape[-1], self.total // 2
        windows = ceil((length - self.kernel + self.total) / self.stride)
        more = windows * self.stride + self.kernel - self.total - length
        return self.conv["conv"](reflected(x, self.total - right, right + more))


def reflected(x: Float[Tensor, "n a length"], left: int, right: int) -> Float[Tensor, "n a longer"]:
    """Continued by reflection; what is too short for it is first filled up with silence, which is cut off again."""
    short = max(0, max(left, right) - x.shape[-1] + 1)
    padded = F.pad(F.pad(x, (0, short)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - short]


class Up(nn.Module):
    """A transposed convolution, cut to `stride` times the length."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        conv = NormedConv(a, b, 2 * stride, stride=stride, padding=0, up=True)
        self.convtr = nn.ModuleDict({"convtr": conv})

    def forward(self, x: Float[Tensor, "n a length"]) -> Float[Tensor, "n b longer"]:
        y, right = self.convtr["convtr"](x), self.stride // 2
        return y[..., self.stride - right : y.shape[-1] - right]


class Residual(nn.Module):
    """Two convolutions through half the channels, beside one."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        half = channels // 2
        first = Conv(channels, half, 3, dilation=dilation)
        self.block = nn.Sequential(nn.ELU(), first, nn.ELU(), Conv(half, channels, 1))
        self.shortcut = Conv(channels, channels, 1)

    def forward(self, x: Float[Tensor, "n c length"]) -> Float[Tensor, "n c length"]:
        return self.shortcut(x) + self.block(x)


class Recurrent(nn.Module):
    """A recurrent network with its input added; both ways, the input stands twice."""

    def __init__(self, dim: int, layers: int, ways: int) -> None:
        super().__init__()
        self.ways = ways
        self.lstm = nn.LSTM(dim, dim, layers, bidirectional=ways == 2)

    def forward(self, x: Float[Tensor, "n c length"]) -> Float[Tensor, "n d length"]:
        x = x.permute(2, 0, 1)
        return (self.lstm(x)[0] + x.repeat(1, 1, self.ways)).permute(1, 2, 0)


class Book(nn.Module):
    """Entries, and the running means that they are learned by."""

    embed: Tensor

    def __init__(self, entries: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(entries))
        self.register_buffer("embed", torch.randn(entries, dim))
        self.register_buffer("embed_avg", torch.zeros(entries, dim))

    def nearest(self, x: Float[Tensor, "*n dim"]) -> Int[Tensor, "*n"]:
        distances = x.square().sum(-1, keepdim=True) - 2 * x @ self.embed.T + self.embed.square().sum(-1)
        return distances.argmin(-1)


class SpeechTokenizerModule(WaveCodec):
    """Waveforms to codes and back; codes stand frame after frame, the books of a frame side by side."""

    def __init__(self, spec: SpeechTokenizer) -> None:
        super().__init__(spec)
        self.encoder = nn.ModuleDict({"model": _encoder(spec)})
        books = nn.ModuleList(nn.ModuleDict({"_codebook": Book(spec.entries, spec.dim)}) for _ in range(spec.held))
        self.quantizer = nn.ModuleDict({"vq": nn.ModuleDict({"layers": books})})
        self.decoder = nn.ModuleDict({"model": _decoder(spec)})
        self.transform = nn.Linear(spec.dim, spec.semantic)

    def books(self, first: int, stop: int) -> list[Any]:
        """Books of some streams."""
        vq: Any = self.quantizer["vq"]
        return [layer["_codebook"] for layer in vq["layers"][first:stop]]

    def latents(self, wave: Float[Tensor, "n samples"]) -> Float[Tensor, "n frames dim"]:
        """What the books are compared with."""
        return self.encoder["model"](wave[:, None]).transpose(1, 2)

    def streams(
        self, latents: Float[Tensor, "n frames dim"], first: int = 0, stop: int | None = None
    ) -> Int[Tensor, "n frames books"]:
        """Codes of books first .. stop, each of what those from `first` on have left over."""
        codes, rest = [], latents
        for book in self.books(first, self.spec.streams if stop is None else stop):
            codes.append(book.nearest(rest))
            rest = rest - book.embed[codes[-1]]
        return torch.stack(codes, dim=-1)

    def entries(self, codes: Int[Tensor, "n frames books"], first: int = 0) -> Float[Tensor, "n frames dim"]:
        """Sum of the entries of books from `first` on."""
        books = self.books(first, first + codes.shape[-1])
        return torch.stack([book.embed[codes[..., i]] for i, book in enumerate(books)]).sum(0)

    def waves(self, latents: Float[Tensor, "n frames dim"]) -> Float[Tensor, "n samples"]:
        """Waveforms of whole frames."""
        return self.decoder["model"](latents.transpose(1, 2))[:, 0]

    def said(self, wave: Float[Tensor, "n samples"]) -> Float[Tensor, "n frames semantic"]:
        """What the first book is taught to be HuBERT's features."""
        return self.transform(self.entries(self.streams(self.latents(wave), 0, 1)))

    def encode(self, wave: Float[Tensor, "n samples"]) -> Int[Tensor, "n codes"]:
        return self.streams(self.latents(wave)).flatten(1)

    def decode(self, codes: Int[Tensor, "n codes"], extent: Grid | None = None) -> Float[Tensor, "n samples"]:
        """Waveforms, cut to the extent.

        Raises:
            SpecError: codes of other than whole frames, or of another extent.
        """
        books = self.spec.streams
        expected = codes.shape[1] // books * books if extent is None else self.spec.codes(extent)
        if codes.shape[1] != expected or not expected:
            raise SpecError(f"{codes.shape[1]} codes of {books} books, but {expected or books} are needed")
        return fitted(self.waves(self.entries(codes.unflatten(1, (-1, books)))), extent)


def _encoder(spec: SpeechTokenizer) -> nn.Sequential:
    channels, layers = spec.filters, list[nn.Module]([Conv(1, spec.filters, 7)])
    for ratio in reversed(spec.ratios):
        layers += [Residual(channels, 2**i) for i in range(spec.residuals)]
        layers += [nn.ELU(), Conv(channels, 2 * channels, 2 * ratio, stride=ratio)]
        channels *= 2
    return nn.Sequential(*layers, Recurrent(channels, spec.lstm, 2), nn.ELU(), Conv(2 * channels, spec.dim, 7))


def _decoder(spec: SpeechTokenizer) -> nn.Sequential:
    channels = spec.inner
    layers = list[nn.Module]([Conv(spec.dim, channels, 7), Recurrent(channels, spec.lstm, 1)])
    for ratio in spec.ratios:
        layers += [nn.ELU(), Up(channels, channels // 2, ratio)]
        channels //= 2
        layers += [Residual(channels, 2**i) for i in range(spec.residuals)]
    return nn.Sequential(*layers, nn.ELU(), Conv(channels, 1, 7))
