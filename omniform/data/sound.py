"""Sound: read from files, bytes or memory, and cut into the waveforms of a plan.

WAV files are read here, of 8, 16, 24 and 32 bits and of 32 and 64-bit floats; what else there is (FLAC, OGG, MP3)
through the package soundfile where it is installed. Samples are float32 with full scale at 1, as soundfile gives them.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from omniform.data.document import Media
from omniform.data.stored import DEFAULT_LIMITS, Limits, MediaError, file_of, named
from omniform.frozen import FrozenMap
from omniform.geometry import MediaSize, Mono, Plan, Resample, Span, Step, resampled_length

Samples: TypeAlias = npt.NDArray[np.float32]
"""(samples, channels); after `Mono` (samples,)."""

TAPS = 10
"""Zero crossings of the resampling filter on each side."""
BETA = 5.0
"""Shape of its Kaiser window."""
BLOCK = 1 << 15
"""Samples that are resampled at once."""
HEADER = 1 << 16
"""Bytes of a file in which the header must end."""
EXTENSIBLE = 0xFFFE
"""Format of a WAV file that tells its real one further on."""
SOUND = "no sound that can be read here"


def sound_size(media: Media, limits: Limits = DEFAULT_LIMITS) -> MediaSize:
    """Samples of each channel and their rate; of a WAV file only the header is read.

    Raises:
        MediaError: it cannot be read, or is beyond the limits.
    """
    return _opened(media, limits).size


def samples_of(media: Media, limits: Limits = DEFAULT_LIMITS) -> tuple[Samples, int]:
    """(samples, channels) of a sound, and their rate.

    Raises:
        MediaError: it cannot be read, is damaged, or is beyond the limits.
    """
    opened = _opened(media, limits)
    with named(media.name, SOUND):
        found = opened.read()
    if len(found) != opened.size.samples:
        raise MediaError(
            f"{media.name} says it has {opened.size.samples} samples, but holds {len(found)}; is the file whole?"
        )
    if not np.isfinite(found).all():
        raise MediaError(f"{media.name} holds samples that are no numbers; is the file whole?")
    return found, opened.size.rate


def waveforms_of(samples: Samples, rate: int, plan: Plan) -> Float[Tensor, "views 1 samples"]:
    """The views of a plan; steps that several views share are done once."""
    done: dict[tuple[Step, ...], Samples] = {}

    def after(steps: tuple[Step, ...]) -> Samples:
        if not steps:
            return samples
        if steps not in done:
            done[steps] = _run(after(steps[:-1]), steps[-1], rate)
        return done[steps]

    views = np.stack([after(view.steps) for view in plan.views])[:, None]
    if views.shape[1:] != plan.size:
        raise ValueError(f"views of {views.shape[1:]} after {plan.views[0].steps}, planned {plan.size}")
    return torch.from_numpy(views)


def _run(samples: Samples, step: Step, rate: int) -> Samples:
    if isinstance(step, Mono):
        return samples[:, 0] if step.mix == "first" else samples.mean(1, dtype=np.float32)
    if isinstance(step, Resample):
        return resampled(samples, rate, step.rate)
    if not isinstance(step, Span):
        raise TypeError(f"{step} is a step of pictures, not of sound")
    out = np.zeros(step.samples, np.float32)
    part = samples[step.start : step.start + step.samples]
    out[: len(part)] = part
    return out


def resampled(samples: Samples, rate: int, new: int) -> Samples:
    """A waveform at another rate, in float64 inside.

    The sinc filter that cuts at the lower of both Nyquist frequencies, under a Kaiser window of beta 5 and 10 zero
    crossings on each side, with a gain of 1 at zero: sample i of the result stands at the time of sample
    i * rate / new. Silence surrounds the sound. scipy.signal.resample_poly gives the same by default.
    """
    up, down = new // gcd(rate, new), rate // gcd(rate, new)
    if up == down:
        return samples
    reach = TAPS * max(up, down)  # of the filter at the common multiple of both rates
    at = np.arange(-reach, reach + 1)
    taps = np.sinc(at / max(up, down)) * np.kaiser(2 * reach + 1, BETA)
    taps *= up / taps.sum()
    count = 2 * reach // up + 1  # samples under the filter
    padded = np.concatenate([np.zeros(count), samples, np.zeros(count)])
    blocks = []
    for start in range(0, length := resampled_length(len(samples), rate, new), BLOCK):
        centre = np.arange(start, min(start + BLOCK, length)) * down  # at the common multiple
        first = -(-(centre - reach) // up)  # first sample within reach
        under = first[:, None] + np.arange(count)
        offset = under * up - centre[:, None] + reach
        weights = np.where(offset <= 2 * reach, taps[np.minimum(offset, 2 * reach)], 0.0)
        blocks.append((padded[under + count] * weights).sum(1))
    return np.concatenate(blocks).astype(np.float32)


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """A sound whose header has been read."""

    size: MediaSize
    read: Callable[[], Samples]


def _opened(media: Media, limits: Limits) -> _Opened:
    source, name = media.source, media.name
    if isinstance(source, tuple):
        return _array(name, source, limits)
    if not isinstance(source, (str, Path, bytes)):
        raise MediaError(f"{name} is a {type(source).__name__}; give a file, its bytes, or (samples, rate)")
    stored = file_of(media, limits)
    if _start(stored)[:4] == b"RIFF":
        return _wav(name, stored, limits)
    return _other(name, stored, limits)


def _start(stored: Path | bytes, count: int = HEADER) -> bytes:
    if isinstance(stored, bytes):
        return stored[:count]
    with stored.open("rb") as file:
        return file.read(count)


def _checked(name: str, samples: int, rate: int, channels: int, limits: Limits) -> MediaSize:
    if samples * channels > limits.samples:
        raise MediaError(
            f"{name} has {samples} samples of {channels} channels, at most {limits.samples} are read; cut it first"
        )
    if min(samples, rate, channels) < 1:
        raise MediaError(f"{name} is empty ({samples} samples of {channels} channels, {rate} a second)")
    return MediaSize(samples=samples, rate=rate)


def _array(name: str, source: tuple[Any, Any], limits: Limits) -> _Opened:
    """(samples, rate): samples are floats with full scale at 1, (n,) or (n, channels), as soundfile gives them."""
    held, rate = np.asarray(source[0]), source[1]
    if held.ndim not in (1, 2) or held.dtype.kind != "f" or not isinstance(rate, int):
        raise MediaError(
            f"{name}: samples of {held.dtype} {list(held.shape)} at rate {rate!r}; give floats of full scale 1, "
            "(samples,) or (samples, channels), and the samples a second as an integer"
        )
    samples = np.asarray(held if held.ndim == 2 else held[:, None], dtype=np.float32)
    return _Opened(_checked(name, len(samples), rate, samples.shape[1], limits), lambda: samples)


def _wav(name: str, stored: Path | bytes, limits: Limits) -> _Opened:
    with named(name, SOUND):
        form = _form(_start(stored))
    if form.code not in DECODE:
        raise MediaError(f"{name} holds samples of WAV format {form.tag}, {form.bits} bits; save it as 16-bit PCM")

    def read() -> Samples:
        whole = stored if isinstance(stored, bytes) else stored.read_bytes()
        body = np.frombuffer(whole[form.start : form.start + form.length], np.uint8)
        return DECODE[form.code](body[: len(body) // form.block * form.block]).reshape(-1, form.channels)

    return _Opened(_checked(name, form.length // form.block, form.rate, form.channels, limits), read)


@dataclass(frozen=True)
class _Form:
    """What the header of a WAV file says.

    Attributes:
        tag: 1 for whole numbers, 3 for floats.
        block: bytes of one sample of all channels.
        start, length: of the samples, in bytes.
    """

    tag: int
    channels: int
    rate: int
    block: int
    bits: int
    start: int = 0
    length: int = 0

    @property
    def code(self) -> tuple[int, int]:
        return self.tag, self.bits


def _form(head: bytes) -> _Form:
    """Header of a RIFF file; chunks beside "fmt " and "data" are passed over."""
    form: _Form | None = None
    at = 12
    while at + 8 <= len(head):
        kind, length = struct.unpack_from("<4sI", head, at)
        if kind == b"fmt ":
            tag, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", head, at + 8)
            if tag == EXTENSIBLE:
                tag = struct.unpack_from("<H", head, at + 32)[0]
            form = _Form(tag, channels, rate, block, bits)
        if kind == b"data" and form and form.block:
            return replace(form, start=at + 8, length=length)
        at += 8 + length + length % 2
    raise ValueError("no samples in a RIFF file")


def _whole(kind: str, scale: float, zero: float = 0.0) -> Callable[[npt.NDArray[np.uint8]], Samples]:
    """Whole numbers, to full scale 1."""
    return lambda body: ((body.view(kind).astype(np.float64) - zero) / scale).astype(np.float32)


def _three_bytes(body: npt.NDArray[np.uint8]) -> Samples:
    wide = np.zeros((len(body) // 3, 4), np.uint8)
    wide[:, 1:] = body.reshape(-1, 3)
    return (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)


DECODE: Mapping[tuple[int, int], Callable[[npt.NDArray[np.uint8]], Samples]] = FrozenMap({
    (1, 8): _whole("u1", 128.0, 128.0), (1, 16): _whole("<i2", 2.0**15), (1, 24): _three_bytes,
    (1, 32): _whole("<i4", 2.0**31), (3, 32): _whole("<f4", 1.0), (3, 64): _whole("<f8", 1.0),
})  # fmt: skip
"""(format, bits) -> how samples are read."""


def _other(name: str, stored: Path | bytes, limits: Limits) -> _Opened:
    """Files that soundfile reads."""
    try:
        import soundfile
    except ImportError as error:
        raise MediaError(f"{name} is {SOUND}; save it as WAV, or run `pip install soundfile`") from error

    def file() -> Any:
        return io.BytesIO(stored) if isinstance(stored, bytes) else stored

    with named(name, SOUND):
        info = soundfile.info(file())
    return _Opened(
        _checked(name, info.frames, info.samplerate, info.channels, limits),
        lambda: soundfile.read(file(), dtype="float32", always_2d=True)[0],
    )
