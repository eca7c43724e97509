"""Media as data URIs, so that a page that shows or plays them needs nothing from outside."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image

from omniform.codecs.wave_module import wav_bytes
from omniform.data.document import Document, Media
from omniform.data.media import frames_of, size_of
from omniform.data.sound import samples_of

SIDE = 240
"""Longest side of a picture in the page, in pixels."""
MOST_FRAMES = 16
"""Frames of an animation, spread over the video."""
FRAME_MS = 125
"""How long a frame is shown where the video does not say its rate."""
LONGEST = 30
"""Seconds of a sound that are kept."""


def shown_of(document: Document) -> str | None:
    """A document's first medium that the user gives, as a data URI; None without one.

    Raises:
        MediaError: the medium cannot be read.
    """
    given = [medium for medium in document.media if medium.role != "assistant"]
    return uri_of(given[0]) if given else None


def uri_of(medium: Media) -> str:
    """A picture as PNG, a video as an animated WebP, a sound as WAV of one channel.

    Raises:
        MediaError: the medium cannot be read.
    """
    if medium.modality == "audio":
        samples, rate = samples_of(medium)
        return _uri("audio/wav", wav_bytes(torch.from_numpy(samples[: LONGEST * rate].mean(1)), rate))
    frames = frames_of(medium)
    if len(frames) == 1:
        return picture_uri(_small(frames[0]))
    count = min(len(frames), MOST_FRAMES)
    numbers = [i * (len(frames) - 1) // (count - 1) for i in range(count)]
    fps = size_of(medium).fps
    each = round(len(frames) / count * 1000 / fps) if fps else FRAME_MS
    return _animation([_small(frames[n]) for n in numbers], each)


def picture_uri(picture: Image.Image) -> str:
    """A picture as PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return _uri("image/png", file.getvalue())


def _animation(frames: list[Image.Image], each: int) -> str:
    """Frames shown `each` milliseconds in a loop, the last one longer."""
    file = io.BytesIO()
    last = [each] * (len(frames) - 1) + [each + 500]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], duration=last, loop=0, quality=85)
    return _uri("image/webp", file.getvalue())


def _small(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    return picture


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
