"""Speech made by espeak-ng, a program of its own (Debian's package of that name), and the noise that it stands in."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from omniform.data.dataset import DataError
from omniform.data.document import Media
from omniform.data.phrases import Utterance
from omniform.data.sound import resampled, samples_of

RATE = 16000
TAIL = 0.1
"""Seconds after the speech."""
Wave = npt.NDArray[np.float32]


def run(*arguments: str) -> str:
    """What espeak-ng prints.

    Raises:
        DataError: it is not installed, or fails.
    """
    try:
        done = subprocess.run(["espeak-ng", *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise DataError("espeak-ng is not installed; run `apt-get install espeak-ng`") from error
    except subprocess.CalledProcessError as error:
        raise DataError(f"espeak-ng {' '.join(arguments)} fails: {error.stderr.strip() or error}") from error
    return done.stdout


@cache
def version() -> str:
    """Version of espeak-ng: "1.51"."""
    found = re.search(r"\d+(\.\d+)+", said := run("--version"))
    if not found:
        raise DataError(f"espeak-ng --version says {said.strip()!r}, which holds no version")
    return found.group()


def spoken(utterance: Utterance, beside: Path) -> Wave:
    """The speech alone, from its first to its last sample that can be heard; `beside`: a file to write in between."""
    given = ("-v", utterance.voice, "-s", str(utterance.speed), "-p", str(utterance.pitch))
    run(*given, "-w", str(beside), utterance.words)
    samples, rate = samples_of(Media("audio", beside))
    wave = resampled(samples[:, 0], rate, RATE)
    loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max(initial=1e-9))
    if not len(loud):
        raise DataError(f"espeak-ng says nothing for {utterance.words!r} in the voice {utterance.voice}")
    return wave[loud[0] : loud[-1] + 1]


def heard(speech: Wave, utterance: Utterance, random: np.random.Generator) -> Wave:
    """Speech at its loudness amid its noise; noise is as strong at all frequencies, or falls as 1/f, by chance."""
    lead, tail = (np.zeros(int(seconds * RATE), np.float32) for seconds in (utterance.lead, TAIL))
    power = float(np.mean(speech.astype(float) ** 2))
    wave = np.concatenate([lead, speech, tail]).astype(float)
    if utterance.noise is not None:
        noise = coloured(len(wave), random.choice([0.0, 0.5]), random)
        wave += noise * np.sqrt(power / 10 ** (utterance.noise / 10))
    return (utterance.loudness * wave / np.abs(wave).max()).astype(np.float32)


def coloured(count: int, fall: float, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Noise of power 1 whose amplitudes fall as frequency ** -fall."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -fall
    noise = np.fft.irfft(spectrum, count)
    return noise / np.sqrt(np.mean(noise**2))
