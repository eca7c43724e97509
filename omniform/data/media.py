"""Pictures and frames: read from paths, URLs, bytes or memory under limits, and cut into the views of a plan.

EXIF orientation is not applied and transparency is dropped, as in the code bases whose numbers we match: they open
pictures with `PIL.Image.open(...).convert("RGB")`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import overload

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from omniform.data.document import Media
from omniform.data.sound import sound_size
from omniform.data.stored import DEFAULT_LIMITS, Limits, MediaError, file_at, is_url, named
from omniform.frozen import FrozenMap
from omniform.geometry import Crop, Hw, MediaSize, Pad, Plan, Resize, Step

RESAMPLE: Mapping[str, Image.Resampling] = FrozenMap(
    bicubic=Image.Resampling.BICUBIC, bilinear=Image.Resampling.BILINEAR, lanczos=Image.Resampling.LANCZOS
)
WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of more than 8 bits, which PIL would clip to white when converting to RGB."""
PICTURE = "no picture that PIL can read; give PNG, JPEG, WebP or GIF, or for a film a folder with one picture per frame"


def size_of(media: Media, limits: Limits = DEFAULT_LIMITS) -> MediaSize:
    """Width, height and frames of a picture or video, samples and rate of sound, from the header.

    No pixel is decoded, but for the first frame of an animation.

    Raises:
        MediaError: it cannot be read, or is beyond the limits.
    """
    return sound_size(media, limits) if media.modality == "audio" else _opened(media, limits).size


def frames_of(media: Media, limits: Limits = DEFAULT_LIMITS) -> Sequence[Image.Image]:
    """RGB pictures of a medium (one for an image), each decoded when it is indexed.

    Raises:
        MediaError: it cannot be read, or is beyond the limits; also when a frame is indexed.
    """
    return _opened(media, limits)


def views_of(frames: Sequence[Image.Image], plan: Plan, resample: str) -> UInt8[Tensor, "views 3 height width"]:
    """The views of a plan, 8-bit; steps that several views share are done once.

    Args:
        frames: RGB pictures of one medium.
        resample: filter of every `Resize`, "bicubic", "bilinear" or "lanczos".
    """
    done: dict[tuple[int, tuple[Step, ...]], Image.Image] = {}

    def after(frame: int, steps: tuple[Step, ...]) -> Image.Image:
        key = frame, steps
        if key not in done:
            done[key] = _run(after(frame, steps[:-1]), steps[-1], resample) if steps else frames[frame]
        return done[key]

    views = torch.empty(len(plan.views), 3, *plan.size, dtype=torch.uint8)
    for i, view in enumerate(plan.views):
        picture = after(view.frame, view.steps)
        if (picture.height, picture.width) != plan.size:
            raise ValueError(f"view {i} is {picture.height}x{picture.width} after {view.steps}, planned {plan.size}")
        views[i] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        if i + 1 < len(plan.views) and plan.views[i + 1].frame != view.frame:
            done.clear()
    return views


def _run(picture: Image.Image, step: Step, resample: str) -> Image.Image:
    if isinstance(step, Resize) and step.smooth:
        return picture.resize((step.size[1], step.size[0]), RESAMPLE[resample])
    if isinstance(step, Resize):
        return _between_nearest(picture, step.size)
    if not isinstance(step, Pad | Crop):
        raise TypeError(f"{step} is a step of sound, not of pictures")
    top, left = step.offset
    if isinstance(step, Pad):
        canvas = Image.new("RGB", (step.size[1], step.size[0]), step.fill)
        canvas.paste(picture, (left, top))
        return canvas
    return picture.crop((left, top, left + step.size[1], top + step.size[0]))


def _between_nearest(picture: Image.Image, size: Hw) -> Image.Image:
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    found = F.interpolate(pixels, size=size, mode="bilinear").round().to(torch.uint8)
    return Image.fromarray(found[0].permute(1, 2, 0).numpy())


# --- reading -----------------------------------------------------------------------------------------------------


class _Frames(Sequence[Image.Image]):
    """Frames of one medium, read when they are indexed."""

    def __init__(self, name: str, size: MediaSize, read: Callable[[int], Image.Image]) -> None:
        self.name, self.size, self.read = name, size, read

    def __len__(self) -> int:
        return self.size.frames

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | Sequence[Image.Image]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {self.name}, which has {len(self)}")
        with named(self.name, PICTURE):
            picture = self.read(index % len(self))
            found = picture.size
            if picture.mode in WIDE_MODES:
                raise MediaError(f"{self.name} has {picture.mode} pixels of more than 8 bits; save it with 8 bits")
            picture = picture.convert("RGB")
        if found != (self.size.width, self.size.height):
            raise MediaError(
                f"frame {index} of {self.name} is {found[0]}x{found[1]}, the first is "
                f"{self.size.width}x{self.size.height}; give frames of one size"
            )
        return picture


def _opened(media: Media, limits: Limits) -> _Frames:
    """Frames of any source; an image is its first frame."""
    source, name = media.source, media.name
    one = media.modality == "image"
    if isinstance(source, Image.Image):
        return _pictures(name, [source], limits)
    if not isinstance(source, (str, Path, bytes)):
        frames = [frame for frame in source if isinstance(frame, Image.Image)]
        if len(frames) < len(source):
            raise MediaError(f"{name} holds {len(source) - len(frames)} items that are no pictures; give PIL images")
        return _pictures(name, frames[:1] if one else frames, limits)
    if not isinstance(source, bytes) and not is_url(source) and Path(source).is_dir():
        return _directory(name, Path(source), one, limits)
    return _file(name, file_at(source, name, limits), one, limits)


def _pictures(name: str, pictures: list[Image.Image], limits: Limits) -> _Frames:
    if not pictures:
        raise MediaError(f"{name} has no frames; give at least one")
    size = _checked(name, pictures[0], len(pictures), limits)
    return _Frames(name, size, pictures.__getitem__)


def _directory(name: str, folder: Path, one: bool, limits: Limits) -> _Frames:
    """The pictures of a folder in the order of their names."""
    if one:
        raise MediaError(f"{name} is a folder; give one of its files, or call it a video")
    known = Image.registered_extensions()
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in known)
    if not paths:
        raise MediaError(f"{name} holds no pictures (.png, .jpg ...); a video folder holds one file per frame")

    def read(index: int) -> Image.Image:
        path = paths[index]
        return _file(str(path), file_at(path, str(path), limits), True, limits)[0]

    with named(str(paths[0]), PICTURE), Image.open(paths[0]) as first:
        size = _checked(name, first, len(paths), limits)
    return _Frames(name, size, read)


def _file(name: str, stored: Path | bytes, one: bool, limits: Limits) -> _Frames:
    with named(name, PICTURE), Image.open(io.BytesIO(stored) if isinstance(stored, bytes) else stored) as head:
        count = 1 if one else int(getattr(head, "n_frames", 1))  # PIL: only formats with frames have the attribute
        size = _checked(name, head, count, limits)
        if count > 1:
            size = replace(size, fps=_rate(head))

    @cache
    def opened() -> Image.Image:
        return Image.open(io.BytesIO(stored if isinstance(stored, bytes) else stored.read_bytes()))

    def read(index: int) -> Image.Image:
        opened().seek(index)
        return opened()

    return _Frames(name, size, read)


def _rate(opened: Image.Image) -> float | None:
    """Frames a second, from the first frame's duration in milliseconds."""
    if "duration" not in opened.info:
        opened.load()  # WebP tells it with the frame
    duration = opened.info.get("duration")
    return 1000.0 / duration if duration else None


def _checked(name: str, picture: Image.Image, frames: int, limits: Limits) -> MediaSize:
    width, height = picture.size
    if width * height > limits.pixels:
        raise MediaError(f"{name} has {width}x{height} pixels, at most {limits.pixels} are read; shrink it first")
    if frames > limits.frames:
        raise MediaError(f"{name} has {frames} frames, at most {limits.frames} are read; cut it or take fewer")
    if min(width, height) < 1:
        raise MediaError(f"{name} is empty ({width}x{height} pixels)")
    return MediaSize(width=width, height=height, frames=frames)
