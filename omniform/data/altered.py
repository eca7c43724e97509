"""Pictures changed in ways that leave what they show: more to learn from where there are few."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

TURN, SIZE, MOVE = 20.0, (0.75, 1.1), 0.08
"""Degrees to either side; times the picture's size; times its side, each way."""
COLOUR, LIGHT, BLUR = (0.6, 1.3), (0.85, 1.1), 1 / 64
"""Saturation and brightness, times the picture's own; the blur's radius at most, times its side."""


def altered(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """Mirrored or not, turned, sized and moved on white, in slightly other colours, and not as sharp."""
    picture = picture.convert("RGB")
    if random.random() < 0.5:
        picture = ImageOps.mirror(picture)
    turned = np.deg2rad(random.uniform(-TURN, TURN))
    across = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]]) / random.uniform(*SIZE)
    size = np.array(picture.size)
    start = size / 2 - across @ (size / 2 + size * random.uniform(-MOVE, MOVE, 2))
    affine = tuple(np.column_stack([across, start]).ravel().tolist())
    picture = picture.transform(
        picture.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC, fillcolor="white"
    )
    picture = ImageEnhance.Color(picture).enhance(random.uniform(*COLOUR))
    picture = ImageEnhance.Brightness(picture).enhance(random.uniform(*LIGHT))
    return picture.filter(ImageFilter.GaussianBlur(random.uniform(0, BLUR) * picture.width))
