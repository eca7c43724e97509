"""How much of media a codec keeps: media against what their codes give back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from omniform.data.dataset import DataError
from omniform.data.datasets import open_datasets
from omniform.data.pool import Pool
from omniform.evaluation.runs import RunError
from omniform.training.codec_recipe import CodecRecipe

BATCH = 16


@dataclass(frozen=True)
class Reconstruction:
    """Pictures and what came back.

    Attributes:
        name: of the dataset.
        names: of the pictures.
        given, found: 8-bit, (n, 3, height, width).
        used: different codes.
    """

    name: str
    names: Sequence[str]
    given: UInt8[Tensor, "n 3 height width"]
    found: UInt8[Tensor, "n 3 height width"]
    used: int

    @cached_property
    def errors(self) -> Tensor:
        """Mean squared error of each picture, of a range of 255."""
        return (self.given.double() - self.found.double()).square().mean((1, 2, 3))

    @cached_property
    def psnr(self) -> list[float]:
        """Peak signal-to-noise ratio of each picture in dB; at most that of an error of 1 in one of its values."""
        least = 1 / self.given[0].numel()
        return (10 * (255**2 / self.errors.clamp(min=least)).log10()).tolist()

    @property
    def mean(self) -> float:
        """Mean PSNR in dB."""
        return sum(self.psnr) / len(self.psnr)

    @property
    def pooled(self) -> float:
        """PSNR of the mean error in dB, which a few bad pictures rule."""
        return float(10 * (255**2 / self.errors.mean().clamp(min=1e-9)).log10())

    def picture(self, number: int) -> Image.Image:
        """What came back of one picture."""
        return picture_of(self.found[number])

    def json(self) -> str:
        """The figures, and the PSNR of every picture."""
        each = dict(zip(self.names, (round(value, 3) for value in self.psnr), strict=True))
        figures = {"data": self.name, "count": len(each), "psnr": self.mean, "psnr_pooled": self.pooled}
        return json.dumps({**figures, "codes_used": self.used, "each": each}, indent=1, ensure_ascii=False) + "\n"


def picture_of(pixels: UInt8[Tensor, "3 height width"]) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy(), "RGB")


@torch.inference_mode()
def reconstruct(
    model: Any, pool: Pool, name: str = "", progress: Callable[[int, int], None] | None = None
) -> Reconstruction:
    """All pictures of a pool through a codec.

    Raises:
        DataError: there are none.
    """
    if not len(pool):
        raise DataError(f"dataset {name or 'given'} holds no {pool.codec.modality}; check its split and limit")
    device = next(model.parameters()).device
    given, found, used = [], [], set()
    for start in range(0, len(pool), BATCH):
        media = torch.stack([pool.read(i) for i in range(start, min(start + BATCH, len(pool)))])
        codes = model.encode(model.normalise(media.to(device)))
        back = model.decode(codes, tuple(media.shape[2:])).float().clamp(-1, 1)
        given.append(media)
        found.append(((back + 1) / 2 * 255).round().to(torch.uint8).cpu())
        used |= set(codes.flatten().tolist())
        if progress:
            progress(start + len(media), len(pool))
    return Reconstruction(name, pool.names, torch.cat(given), torch.cat(found), len(used))


def measured(
    recipe: CodecRecipe, model: Any, data: str = "", limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Reconstruction:  # fmt: skip
    """A run's codec on one of its datasets.

    Raises:
        RunError: neither the recipe nor `data` says which.
    """
    name = data or recipe.evaluate
    if name is None:
        raise RunError("the recipe does not say what to evaluate on; add `evaluate: {data: NAME}`, or give --data")
    if name not in recipe.data:
        raise RunError(f"the recipe has no dataset {name!r}; it has {', '.join(recipe.data)}")
    pool = Pool.of(open_datasets(recipe.data[name]), recipe.codec, recipe.views, limit or recipe.limit)
    return reconstruct(model, pool, name, progress)
