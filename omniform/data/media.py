"""Pictures and frames: read from paths, URLs, bytes or memory under limits, and cut into the views of a plan.

EXIF orientation is not applied and transparency is dropped, as in the code bases whose numbers we match: they open
pictures with `PIL.Image.open(...).convert("RGB")`.
"""

from __future__ import annotations

import io
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from omniform.data.document import Media, Signal
from omniform.frozen import FrozenMap
from omniform.geometry import MediaSize, Pad, Plan, Resize, Step

RESAMPLE: Mapping[str, Image.Resampling] = FrozenMap(
    bicubic=Image.Resampling.BICUBIC, bilinear=Image.Resampling.BILINEAR, lanczos=Image.Resampling.LANCZOS
)
WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of more than 8 bits, which PIL would clip to white when converting to RGB."""


class MediaError(ValueError):
    """A medium that cannot be read; the message names it and the way out."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is read at most from one medium.

    Attributes:
        bytes: size of the file.
        pixels: width times height of one frame.
        frames: frames of a video.
        seconds: time for fetching a URL.
    """

    bytes: int = 64 << 20
    pixels: int = 80_000_000
    frames: int = 20_000
    seconds: float = 20.0


DEFAULT_LIMITS = Limits()


def size_of(media: Media, limits: Limits = DEFAULT_LIMITS) -> MediaSize:
    """Width, height and frames, from the header: no pixel is decoded, but for the first frame of an animation.

    Raises:
        MediaError: it cannot be read, or is beyond the limits.
    """
    return _opened(media, limits).size


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
    if isinstance(step, Resize):
        return picture.resize((step.size[1], step.size[0]), RESAMPLE[resample])
    top, left = step.offset
    if isinstance(step, Pad):
        canvas = Image.new("RGB", (step.size[1], step.size[0]), step.fill)
        canvas.paste(picture, (left, top))
        return canvas
    return picture.crop((left, top, left + step.size[1], top + step.size[0]))


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
        with _named(self.name):
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
        return _pictures(name, list(source[:1] if one else source), limits)
    if not isinstance(source, bytes) and not _is_url(source) and Path(source).is_dir():
        return _directory(name, Path(source), one, limits)
    return _file(name, _stored(source, name, limits), one, limits)


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
        return _file(str(path), _stored(path, str(path), limits), True, limits)[0]

    with _named(str(paths[0])), Image.open(paths[0]) as first:
        size = _checked(name, first, len(paths), limits)
    return _Frames(name, size, read)


def _file(name: str, stored: Path | bytes, one: bool, limits: Limits) -> _Frames:
    with _named(name), Image.open(io.BytesIO(stored) if isinstance(stored, bytes) else stored) as head:
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


def _is_url(source: Signal) -> bool:
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def _stored(source: str | Path | bytes, name: str, limits: Limits) -> Path | bytes:
    """The path or the bytes of a file within the byte limit."""
    if not isinstance(source, bytes):
        source = _download(str(source), limits) if _is_url(source) else Path(source)
    if isinstance(source, Path) and not source.is_file():
        raise MediaError(f"no such file: {name}")
    length = source.stat().st_size if isinstance(source, Path) else len(source)
    if length > limits.bytes:
        raise MediaError(f"{name} has {length} bytes, at most {limits.bytes} are read; shrink it first")
    return source


@lru_cache(maxsize=8)
def _download(url: str, limits: Limits) -> bytes:
    """Body of a URL; the last few are kept, because the size is asked before the pixels."""
    stop = time.monotonic() + limits.seconds
    request = urllib.request.Request(url, headers={"User-Agent": "omniform"})
    try:
        with urllib.request.urlopen(request, timeout=limits.seconds) as response:
            return b"".join(_chunks(response, url, stop, limits))
    except MediaError:
        raise
    except (OSError, ValueError) as error:
        raise MediaError(f"cannot fetch {url}: {error}; check the address, or give a local file") from error


def _chunks(response: Any, url: str, stop: float, limits: Limits) -> Iterator[bytes]:
    total = 0
    while chunk := response.read1(1 << 16):
        total += len(chunk)
        if total > limits.bytes:
            raise MediaError(f"{url} is longer than {limits.bytes} bytes; give a smaller file")
        if time.monotonic() > stop:
            raise MediaError(f"{url} was not read within {limits.seconds:g} seconds; give a local file")
        yield chunk


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns a reader's errors into a `MediaError` that names the medium."""
    try:
        yield
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError(
            f"{name} is no picture that PIL can read; give PNG, JPEG, WebP or GIF, "
            "or for a film a folder with one picture per frame"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"{name} has too many pixels to be read safely; shrink it first") from error
    except Exception as error:  # decoders raise errors of many kinds on damaged files
        raise MediaError(f"{name} cannot be read ({error}); is the file whole?") from error
