"""Files of media: found or fetched under limits; whatever a reader raises becomes an error that names the medium."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from omniform.data.document import Media, Signal


class MediaError(ValueError):
    """A medium that cannot be read; the message names it and the way out."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is read at most from one medium.

    Attributes:
        bytes: size of the file.
        pixels: width times height of one frame.
        frames: frames of a video.
        samples: samples of a sound, times its channels.
        seconds: time for fetching a URL.
    """

    bytes: int = 64 << 20
    pixels: int = 80_000_000
    frames: int = 20_000
    samples: int = 100_000_000
    seconds: float = 20.0


DEFAULT_LIMITS = Limits()


def is_url(source: Signal) -> bool:
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def file_of(media: Media, limits: Limits = DEFAULT_LIMITS) -> Path | bytes:
    """The path or the bytes of a medium's file, fetched where it is a URL.

    Raises:
        MediaError: there is no such file, or it is beyond the limits.
    """
    source = media.source
    if not isinstance(source, (str, Path, bytes)):
        raise MediaError(f"{media.name} lies in memory, not in a file")
    return file_at(source, media.name, limits)


def file_at(source: str | Path | bytes, name: str, limits: Limits) -> Path | bytes:
    """The path or the bytes of a file within the byte limit."""
    if not isinstance(source, bytes):
        source = _download(str(source), limits) if is_url(source) else Path(source)
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
def named(name: str, unknown: str) -> Iterator[None]:
    """Turns a reader's errors into a `MediaError` that names the medium; `unknown`: what a file of no known form is."""
    try:
        yield
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError(f"{name} is {unknown}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"{name} has too many pixels to be read safely; shrink it first") from error
    except Exception as error:  # decoders raise errors of many kinds on damaged files
        raise MediaError(f"{name} cannot be read ({error}); is the file whole?") from error
