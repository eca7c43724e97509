"""Module of `codecs.mel_units`."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from omniform.codecs.mel_units import MelUnits
from omniform.codecs.wave_module import WaveCodec, fitted
from omniform.geometry import Grid

QUIETEST = -5.0
"""Power of a mel cell at least, in decades; cells are scaled so that this is -1, and a power of 1 is 1."""
MOMENTUM = 0.99


class MelUnitsModule(WaveCodec):
    """Waveforms to units and back."""

    def __init__(self, spec: MelUnits) -> None:
        super().__init__(spec)
        self.means = nn.Parameter(torch.randn(spec.units, spec.dim))
        self.embed = nn.Embedding(spec.units, spec.width)
        self.convs = nn.ModuleList(
            nn.Conv1d(spec.width, spec.width, spec.kernel, padding=spec.kernel // 2) for _ in range(2)
        )
        self.refine = nn.Linear(spec.width, spec.dim)
        nn.init.zeros_(self.refine.weight)
        nn.init.zeros_(self.refine.bias)

    # -- to units --

    def cells(self, wave: Float[Tensor, "n samples"]) -> Float[Tensor, "n cells dim"]:
        """Log-mel frames, those of a cell joined; the end is filled up with silence."""
        spec = self.spec
        count = spec.cells(wave.shape[1:])[0]
        wave = F.pad(wave.float(), (0, count * spec.cell - wave.shape[1]))
        power = _transformed(wave, spec)[..., :-1].abs() ** 2
        decades = (_filters(spec).to(wave.device) @ power).clamp(min=10**QUIETEST).log10()
        return (1 - 2 * decades / QUIETEST).transpose(1, 2).reshape(len(wave), count, spec.dim).to(self.means.dtype)

    def nearest(self, cells: Float[Tensor, "*cells dim"]) -> Int[Tensor, "*cells"]:
        """Number of the nearest mean."""
        lengths = self.means.square().sum(-1)
        return (lengths - 2 * cells @ self.means.T).argmin(-1)

    def encode(self, wave: Float[Tensor, "n samples"]) -> Int[Tensor, "n cells"]:
        return self.nearest(self.cells(wave))

    # -- from units --

    def refined(self, units: Int[Tensor, "n cells"]) -> Float[Tensor, "n cells dim"]:
        """Means, and what their neighbours tell beside; cells as `cells` gives them."""
        x = self.embed(units).transpose(1, 2)
        for conv in self.convs:
            x = x + F.gelu(conv(x))
        return self.means.detach()[units] + self.refine(x.transpose(1, 2))

    def decode(self, codes: Int[Tensor, "n cells"], extent: Grid | None = None) -> Float[Tensor, "n samples"]:
        """Waveforms, cut or filled with silence to the extent."""
        spec = self.spec
        frames = self.refined(codes).float().reshape(len(codes), -1, spec.mels).transpose(1, 2)
        power = 10 ** ((1 - frames.clamp(min=-1.0)) / 2 * QUIETEST)
        back = torch.linalg.pinv(_filters(spec)).to(power.device)
        return fitted(griffin_lim((back @ power).clamp(min=0.0).sqrt(), spec), extent)

    # -- learning --

    def errors(self, wave: Float[Tensor, "n samples"]) -> dict[str, Float[Tensor, ""]]:
        """How far cells are from what would be spoken in their place, and squared from their means."""
        heard = self.cells(wave)
        units = self.nearest(heard)
        return {
            "absolute": (self.refined(units) - heard).abs().mean(),
            "means": (self.means[units] - heard).square().mean(),
        }

    @torch.no_grad()
    def renew(self, wave: Float[Tensor, "n samples"]) -> int:
        """Move means that no cell of these sounds is nearest to onto some of the cells; gives their number.

        Cells are drawn by their squared distance from the means in use (k-means++, Arthur and Vassilvitskii 2007).
        """
        cells = self.cells(wave).flatten(0, 1)
        units = self.nearest(cells)
        idle = torch.ones(self.spec.units, dtype=torch.bool, device=cells.device)
        idle[units] = False
        count = min(int(idle.sum()), len(cells))
        if count:
            far = (cells - self.means[units]).square().sum(1) + 1e-6
            self.means[idle.nonzero()[:count, 0]] = cells[torch.multinomial(far, count)]
        return count


# --- spectrograms ------------------------------------------------------------------------------------------------


def griffin_lim(magnitude: Float[Tensor, "n bins frames"], spec: MelUnits) -> Float[Tensor, "n samples"]:
    """Waveforms of frames * hop samples whose spectrogram is near the given one; phases begin with a fixed seed."""
    random = torch.Generator().manual_seed(0)
    turns = torch.rand(magnitude.shape[1:], generator=random).to(magnitude.device) * 2 * torch.pi
    phases, before = torch.polar(torch.ones_like(turns), turns).expand(magnitude.shape), torch.zeros(())
    for _ in range(spec.rounds):
        found = _transformed(_inverse(magnitude * phases, spec), spec)[..., : magnitude.shape[2]]
        ahead = found + MOMENTUM * (found - before)
        phases, before = ahead / ahead.abs().clamp(min=1e-9), found
    return _inverse(magnitude * phases, spec)


def _transformed(wave: Float[Tensor, "n samples"], spec: MelUnits) -> Complex[Tensor, "n bins frames"]:
    taper = torch.hann_window(spec.fft, device=wave.device)
    return torch.stft(wave, spec.fft, spec.hop, window=taper, pad_mode="constant", return_complex=True)


def _inverse(spectrum: Complex[Tensor, "n bins frames"], spec: MelUnits) -> Float[Tensor, "n samples"]:
    taper = torch.hann_window(spec.fft, device=spectrum.device)
    whole = F.pad(spectrum, (0, 1))  # a frame at the very end, which cells do not hold
    return torch.istft(whole, spec.fft, spec.hop, window=taper, length=spectrum.shape[2] * spec.hop)


@cache
def _filters(spec: MelUnits) -> Float[Tensor, "mels bins"]:
    """Each filter's weights sum to about 1, so that powers stay in the range of a bin's."""
    with torch.device("cpu"):
        bank = mel_filter_bank(spec.fft // 2 + 1, spec.mels, 0.0, spec.rate / 2, spec.rate, mel_scale="slaney")
        filters = torch.from_numpy(bank).float().T
        return filters / filters.sum(1, keepdim=True) / (spec.fft / 8)
