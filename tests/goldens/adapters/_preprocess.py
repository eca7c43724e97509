"""Pixels after preprocessing: statistics and samples of a picture given by a formula."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omniform.data.document import Media
from omniform.data.media import frames_of, views_of
from omniform.encoders.image_module import ImageEncoder
from omniform.geometry import MediaSize, Plan
from omniform.parts import Encoder

SAMPLES = 64


def formula(width: int, height: int) -> Image.Image:
    """The picture of the goldens: (7x + 13y + 41c + xy // 17) mod 256."""
    y, x, c = np.ogrid[:height, :width, :3]
    return Image.fromarray(((7 * x + 13 * y + 41 * c + (x * y) // 17) % 256).astype(np.uint8), "RGB")


def normalised(picture: Image.Image, plan: Plan, encoder: Encoder) -> Tensor:
    """(views, 3, height, width) as the encoder reads them."""
    views = views_of(frames_of(Media("image", picture)), plan, encoder.resample)
    return Pixels(encoder).normalise(views)


class Pixels(ImageEncoder):
    """An image encoder that only normalises."""

    def __init__(self, spec: Encoder) -> None:
        super().__init__(spec)
        self.weight = torch.nn.Parameter(torch.zeros(1))


def statistics(pixels: Tensor) -> dict[str, Any]:
    """What a golden says of one (3, height, width) tensor."""
    flat = pixels.flatten().double()
    at = torch.arange(SAMPLES) * 7919 % len(flat)
    return {
        "shape": list(pixels.shape),
        "mean": flat.mean().item(),
        "std": flat.std().item(),
        "samples": flat[at].tolist(),
    }


def cases(data: Mapping[str, Any]) -> Iterator[tuple[str, Image.Image, MediaSize, dict[str, Any]]]:
    """(path, picture, its size, what is said of it) of each case."""
    for i, case in enumerate(data["cases"]):
        width, height = case["image_wh"]
        yield f"cases/{i}", formula(width, height), MediaSize(width=width, height=height), case


def compared(path: str, pixels: Tensor, said: Mapping[str, Any]) -> dict[str, Any]:
    """Results under `path` for the statistics that a golden gives."""
    found = statistics(pixels)
    return {f"{path}/{key}": found[key] for key in said if key in found}


def told(path: str, said: Mapping[str, Any], plan: Plan, *pixels: Tensor) -> dict[str, Any]:
    """Results of one case, whatever it calls them: positions by their usual names, pixels by their shape.

    Args:
        pixels: (views, 3, height, width) of all views, and of what else the original makes of the picture.
    """
    found = {f"{path}/{key}": plan.positions for key in ("tokens", "num_tokens", "total_tokens") if key in said}
    shaped = {tuple(t.shape): t for views in reversed(pixels) for t in (views, *views)}
    for key, value in said.items():
        tensor = shaped.get(tuple(value["shape"])) if isinstance(value, dict) and "shape" in value else None
        found |= {} if tensor is None else compared(f"{path}/{key}", tensor, value)
    return found
