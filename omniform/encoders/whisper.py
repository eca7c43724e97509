"""Whisper's encoder (arXiv:2212.04356), through transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from omniform.encoders.audio import AudioEncoder
from omniform.geometry import Grid, Hw, SpecError
from omniform.parts import Shrunk, vit_flops

HOP = 160
"""Samples between two columns of the spectrogram."""
FREQUENCIES = 201
"""Of a column, before the mel filters."""


@dataclass(frozen=True, kw_only=True)
class Whisper(AudioEncoder):
    """Log-mel spectrogram -> two convolutions, the second of stride 2 -> pre-norm transformer, final norm included.

    Attributes:
        name: what the field calls the size.
        mels: rows of the spectrogram.
        positions: of the longest sound; each stands for 320 samples.
        padded: whether a shorter sound is followed by silence up to the full length, as the model was trained. Else
            its spectrogram is that of the sound alone, and has fewer columns.
        rows: of a sound with silence behind it, those given: all, or only those that were heard before the silence.
            "heard" are cut out when the layers have run over all, "attended" before, so that no layer sees the silence,
            and of "cut" the spectrogram before the convolutions.
        pool: neighbouring rows whose mean becomes one before the final norm; what is left over is dropped.
    """

    abstract = False
    implementation = "omniform.encoders.whisper_module:WhisperModule"
    released = (("model.encoder.", "model."),)

    name: str
    width: int
    layers: int
    heads: int
    mlp_dim: int
    mels: int = 80
    positions: int = 1500
    padded: bool = True
    rows: Literal["all", "heard", "attended", "cut"] = "all"
    pool: int = 1

    def __post_init__(self) -> None:
        if self.rows != "all" and not self.padded:
            raise SpecError(f"rows {self.rows!r} leave silence out, but nothing is padded; use rows='all'")
        if self.width % self.heads:
            raise SpecError(f"width {self.width} does not divide into {self.heads} heads")

    @property
    def title(self) -> str:
        return f"Whisper-{self.name}"

    @property
    def dim(self) -> int:
        return self.width

    @property
    def window(self) -> int:
        return 2 * self.positions * HOP

    def cells(self, size: Hw) -> Grid:
        return (self.frames(size) // self.pool,)

    def frames(self, size: Hw) -> int:
        """Rows before neighbours are pooled."""
        samples = self.heard(size, HOP)
        return self.positions if self.padded and self.rows == "all" else (samples // HOP + 1) // 2

    def layer_params(self) -> int:
        """Parameters of one layer; keys have no bias."""
        d, m = self.width, self.mlp_dim
        return 4 * d * d + 3 * d + 2 * d * m + m + d + 4 * d

    def num_params(self) -> int:
        d = self.width
        return 3 * self.mels * d + d + 3 * d * d + d + self.positions * d + self.layers * self.layer_params() + 2 * d

    def learnable_params(self, first_layer: int = 0) -> int:
        if first_layer:
            return max(self.layers - first_layer, 0) * self.layer_params()
        return self.num_params() - self.positions * self.width  # positions are sines and cosines, and stay

    def flops(self, size: Hw) -> int:
        given = self.frames(size)
        columns = 2 * self.positions if self.padded else size[1] // HOP
        rows = self.positions if self.padded else given
        filters = 2 * columns * FREQUENCIES * self.mels
        convolutions = 2 * 3 * self.width * (columns * self.mels + rows * self.width)
        seen = given if self.rows in ("attended", "cut") else rows
        return filters + convolutions + vit_flops(seen, self.layers, self.width, self.mlp_dim)

    def shrunk(self, size: Shrunk) -> Self:
        tiny = {"width": 20, "layers": 2, "heads": 4, "mlp_dim": 32, "mels": 8, "positions": 24}
        nano = {"width": 96, "layers": 2, "heads": 4, "mlp_dim": 192, "positions": min(self.positions, 100)}
        return self.but(**(tiny if size == "tiny" else nano))

    def config(self) -> dict[str, Any]:
        """Arguments of the transformers configuration."""
        return {
            "d_model": self.width, "encoder_layers": self.layers, "encoder_attention_heads": self.heads,
            "encoder_ffn_dim": self.mlp_dim, "num_mel_bins": self.mels, "max_source_positions": self.positions,
        }  # fmt: skip

    @classmethod
    def fields_of(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Fields from a transformers configuration."""
        return {
            "width": config["d_model"], "layers": config["encoder_layers"],
            "heads": config["encoder_attention_heads"], "mlp_dim": config["encoder_ffn_dim"],
            "mels": config["num_mel_bins"], "positions": config["max_source_positions"],
        }  # fmt: skip


WHISPER_LARGE_V2 = Whisper(name="Large-v2", width=1280, layers=32, heads=20, mlp_dim=5120)
WHISPER_LARGE_V3 = WHISPER_LARGE_V2.but(name="Large-v3", mels=128)
WHISPER_MEDIUM = Whisper(name="Medium", width=1024, layers=24, heads=16, mlp_dim=4096)
WHISPER_SMALL = Whisper(name="Small", width=768, layers=12, heads=12, mlp_dim=3072)
