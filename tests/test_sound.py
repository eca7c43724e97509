"""Sound: files and arrays of any kind, resampling, windows, spectrograms; damaged files are told by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import examples
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from omniform.batch import Features
from omniform.data.document import Media
from omniform.data.media import size_of
from omniform.data.sound import resampled, samples_of, waveforms_of
from omniform.data.stored import Limits, MediaError
from omniform.encoders.audio_module import filter_banks, log_mel
from omniform.encoders.beats import Beats
from omniform.encoders.whisper import WHISPER_LARGE_V2
from omniform.geometry import MediaSize, Mono, Resample, Span, SpecError, resampled_length
from omniform.parts import Sight, Views
from omniform.views.arrange_module import arrange
from omniform.views.whole import Whole
from omniform.views.windows import Windows

GOLDENS = Path(__file__).parent / "goldens"


def wav(samples: np.ndarray, rate: int = 16000, tag: int = 1, extensible: bool = False, junk: bytes = b"") -> bytes:
    """A WAV file of (samples,) or (samples, channels), in the array's own type."""
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    bits = 8 * samples.dtype.itemsize
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, channels, rate, 0, channels * bits // 8, bits)
    form += struct.pack("<HHIH14s", 22, bits, 0, tag, b"") if extensible else b""
    body = samples.tobytes()
    chunks = [(b"fmt ", form), *([(b"LIST", junk)] if junk else []), (b"data", body)]
    inside = b"".join(k + struct.pack("<I", len(c)) + c + b"\0" * (len(c) % 2) for k, c in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(inside)) + b"WAVE" + inside


def tone(count: int, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(count) / rate)).astype(np.float32)


def sight(window: int = 400, rate: int = 100) -> Sight:
    return Sight(size=(1, window), mean_rgb=(0, 0, 0), cells=lambda size: (size[1] // 10,), rate=rate)


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(
    ("kind", "tag", "step"), [("i2", 1, 2**-15), ("i4", 1, 2**-31), ("f4", 3, 0.0), ("f8", 3, 0.0)]
)
def test_wav_files_of_every_kind(tmp_path: Path, kind: str, tag: int, step: float, extensible: bool) -> None:
    wave = np.stack([tone(1000, 8000), -tone(1000, 8000, 200.0)], 1)
    held = wave.astype(kind) if tag == 3 else np.round(wave / step).astype(kind)
    path = tmp_path / "a.wav"
    path.write_bytes(wav(held, 8000, tag, extensible, junk=b"odd"))
    for source in (path, str(path), path.read_bytes()):
        media = Media("audio", source)
        assert size_of(media) == MediaSize(samples=1000, rate=8000)
        samples, rate = samples_of(media)
        assert (samples.shape, samples.dtype, rate) == ((1000, 2), np.float32, 8000)
        assert np.abs(samples - wave).max() <= max(step, 1e-7)


def test_wav_files_of_8_and_24_bits() -> None:
    samples, _ = samples_of(Media("audio", wav(np.array([0, 128, 255], np.uint8))))
    assert samples[:, 0].tolist() == [-1.0, 0.0, 127 / 128]
    three = np.array([[0, 0, 128], [0, 0, 64], [1, 0, 0], [255, 255, 255]], np.uint8)
    header = wav(np.zeros(12, np.uint8))
    file = header[:32] + struct.pack("<HH", 3, 24) + header[36:44] + three.tobytes()
    samples, _ = samples_of(Media("audio", file))
    assert samples[:, 0].tolist() == [-1.0, 0.5, 2.0**-23, -(2.0**-23)]


def test_arrays_and_their_keys() -> None:
    wave = tone(800, 16000)
    one, other = Media("audio", (wave, 16000)), Media("audio", (wave, 8000))
    assert size_of(one) == MediaSize(samples=800, rate=16000) and size_of(one).seconds == 0.05
    assert np.array_equal(samples_of(one)[0][:, 0], wave)
    assert samples_of(Media("audio", (np.stack([wave, wave], 1), 16000)))[0].shape == (800, 2)
    assert len({one.key, other.key, Media("audio", (wave * 0.5, 16000)).key}) == 3
    assert one.key == Media("audio", (wave.copy(), 16000)).key


def test_damaged_and_foreign_sound_is_told_by_name(tmp_path: Path) -> None:
    whole = wav(np.round(tone(1000, 8000) * 2**15).astype("i2"), 8000)
    path = tmp_path / "broken.wav"
    for content, words in [
        (whole[:-100], "says it has 1000 samples, but holds 950"),
        (whole[:30], "cannot be read"),
        (b"RIFF\0\0\0\0WAVEnothing", "cannot be read"),
        (wav(np.zeros(4, "i2"), tag=2), "samples of WAV format 2, 16 bits; save it as 16-bit PCM"),
        (wav(np.zeros(0, "i2")), "is empty"),
        (wav(np.full(4, np.nan, "f4"), tag=3), "samples that are no numbers"),
        (b"ID3 what is this", "pip install soundfile|cannot be read"),
    ]:
        path.write_bytes(content)
        with pytest.raises(MediaError, match=rf"broken\.wav.*({words})"):
            samples_of(Media("audio", path))
    with pytest.raises(MediaError, match=r"no such file: gone\.wav"):
        size_of(Media("audio", "gone.wav"))
    with pytest.raises(MediaError, match="1000 samples of 1 channels, at most 999"):
        size_of(Media("audio", whole), Limits(samples=999))
    for source in ((np.zeros(3, "i2"), 8000), (np.zeros((2, 2, 2)), 8000), (np.zeros(3), 8000.0)):
        with pytest.raises(MediaError, match=r"audio given in memory: samples of .* give floats"):
            size_of(Media("audio", source))  # type: ignore[arg-type]


def test_pictures_and_sound_are_not_taken_for_each_other() -> None:
    with pytest.raises(MediaError, match="no pictures; give PIL images"):
        size_of(Media("video", (tone(10, 10), 10)))
    with pytest.raises(SpecError, match="no height and width"):
        _ = MediaSize(samples=5, rate=1).hw
    with pytest.raises(SpecError, match="seen or heard"):
        MediaSize(width=2, height=2, samples=5, rate=1)
    with pytest.raises(SpecError, match="5 samples at 0 a second"):
        MediaSize(samples=5)


# --- resampling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "new"), [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 16000), (16000, 11025)]
)
def test_a_tone_stays_a_tone(rate: int, new: int) -> None:
    heard = resampled(tone(rate, rate), rate, new)
    wanted = tone(new, new)
    assert len(heard) == resampled_length(rate, rate, new) == new
    inside = slice(100, -100)
    assert np.abs(heard - wanted)[inside].max() < 2e-3
    assert np.abs(resampled(np.ones(rate, np.float32), rate, new)[inside] - 1).max() < 2e-3


def test_what_the_new_rate_cannot_hold_is_filtered_out() -> None:
    assert np.abs(resampled(tone(48000, 48000, 12000.0), 48000, 16000)[100:-100]).max() < 5e-3


def test_lengths_are_rounded_up_and_an_equal_rate_changes_nothing() -> None:
    assert [resampled_length(n, 44100, 16000) for n in (1, 441, 442, 44100)] == [1, 160, 161, 16000]
    wave = tone(77, 16000)
    assert resampled(wave, 16000, 16000) is wave
    assert len(resampled(wave, 16000, 44100)) == resampled_length(77, 16000, 44100) == 213


# --- windows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", examples.SOUND_VIEWS, ids=str)
def test_every_view_has_the_planned_length_and_every_position_is_filled(strategy: Views) -> None:
    for count, rate in [(1, 100), (99, 100), (399, 100), (400, 100), (401, 100), (2000, 100), (777, 441), (10, 8)]:
        plan = strategy.plan(MediaSize(samples=count, rate=rate), sight())
        held = np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)
        waves = waveforms_of(held, rate, plan)
        assert waves.shape == (len(plan.views), *plan.size) and waves.dtype == torch.float32
        cells = plan.size[1] // 10
        features = Features(torch.randn(len(plan.views), cells, 5), (cells,))
        assert arrange(features, plan, {}).shape == (plan.positions, 5)
        assert strategy.shrunk("tiny").plan(MediaSize(samples=count, rate=rate), sight()).positions >= 0


def test_windows_follow_one_another() -> None:
    plan = Windows().plan(MediaSize(samples=950, rate=100), sight())
    assert [v.steps for v in plan.views] == [(Mono("mean"), Span(400 * i, 400)) for i in range(3)]
    held = np.arange(1900, dtype=np.float32).reshape(950, 2)
    waves = waveforms_of(held, 100, plan)[:, 0]
    assert torch.equal(waves.flatten()[:950], torch.arange(950.0) * 2 + 0.5)
    assert waves.flatten()[950:].eq(0).all() and plan.positions == 120
    first = Windows(most=1, mix="first").plan(MediaSize(samples=950, rate=200), sight())
    assert first.views[0].steps == (Mono("first"), Resample(100), Span(0, 400))


def test_short_sound_is_lengthened_as_far_as_asked() -> None:
    lengths = [Windows(least=s).plan(MediaSize(samples=50, rate=100), sight()).size[1] for s in (0.0, 1.0, 9.0)]
    assert lengths == [50, 100, 400]


def test_the_whole_sound_is_one_view() -> None:
    plan = Whole().plan(MediaSize(samples=9500, rate=200), sight())
    assert plan.views[0].steps == (Mono("mean"), Resample(100)) and plan.size == (1, 4750)
    held = np.arange(24, dtype=np.float32).reshape(12, 2)
    plan = Whole(mix="first").plan(MediaSize(samples=12, rate=100), sight())
    assert torch.equal(waveforms_of(held, 100, plan)[0, 0], torch.arange(0.0, 24.0, 2))
    with pytest.raises(SpecError, match="Whole cuts sound for what hears, but the medium is no sound"):
        Whole().plan(MediaSize(width=4, height=4), sight())


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(SpecError, match="the medium is no sound"):
        Windows().plan(MediaSize(width=4, height=4), sight())
    with pytest.raises(SpecError, match="the encoder does not hear"):
        Windows().plan(MediaSize(samples=4, rate=4), sight(rate=0))
    with pytest.raises(SpecError, match="at least 1 window"):
        Windows(most=0)


# --- spectrograms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.5, 7.3, 30.0, 41.0])
@pytest.mark.parametrize("mels", [80, 128])
def test_log_mel_equals_transformers(seconds: float, mels: int) -> None:
    from transformers import WhisperFeatureExtractor

    wave = np.random.default_rng(1).standard_normal(int(16000 * seconds)).astype(np.float32) * 0.1
    wanted = WhisperFeatureExtractor(feature_size=mels)(wave, sampling_rate=16000, return_tensors="pt")
    plan = Windows(most=1).plan(size_of(Media("audio", (wave, 16000))), sight(480000, 16000))
    heard = torch.nn.functional.pad(waveforms_of(wave[:, None], 16000, plan)[:, 0], (0, 480000 - plan.size[1]))
    assert torch.allclose(log_mel(heard, mels, 16000), wanted["input_features"], atol=1e-5)


def test_filter_banks_equal_kaldis() -> None:
    held = load_file(GOLDENS / "beats__finetuned.safetensors")
    banks = (filter_banks(held["in.waveform"] * 2**15, 128) - 15.41663) / (2 * 6.55582)
    assert (banks - held["out.fbank"]).abs().max() < 2e-5


def test_cells_are_the_originals() -> None:
    for case in json.loads((GOLDENS / "beats__geometry.json").read_text(encoding="utf-8"))["cases"]:
        size = (1, case["samples_16k"])
        if case["beats_tokens"]:
            steps, bins = Beats().cells(size)
            assert (steps * bins, bins) == (case["beats_tokens"], 8)
        else:
            with pytest.raises(SpecError, match="hears views of 1 x 2800 to 480000 samples"):
                Beats().cells(size)
    free = WHISPER_LARGE_V2.but(padded=False)
    assert [free.cells((1, n)) for n in (160, 16000, 480000)] == [(1,), (50,), (1500,)]
    assert WHISPER_LARGE_V2.cells((1, 16000)) == (1500,)


def test_unpadded_whisper_hears_a_whole_window_as_the_padded_one_does() -> None:
    torch.manual_seed(0)
    padded, free = examples.WHISPER, examples.WHISPER.but(padded=False)
    one, other = padded.build().eval(), free.build().eval()
    other.load_state_dict(one.state_dict())
    waves = torch.rand(2, *padded.size) - 0.5
    assert torch.equal(one(one.normalise(waves)).values, other(other.normalise(waves)).values)
    assert other(other.normalise(waves[..., :1700])).grid == free.cells((1, 1700)) == (5,)


def test_whisper_gives_rows_of_what_was_heard() -> None:
    torch.manual_seed(0)
    named = {rows: examples.WHISPER.but(rows=rows) for rows in ("all", "heard", "attended")}
    modules = {rows: spec.build().eval() for rows, spec in named.items()}
    for module in modules.values():
        module.load_state_dict(modules["all"].state_dict())
    waves = torch.rand(2, 1, 1700) - 0.5
    found = {rows: module(module.normalise(waves)) for rows, module in modules.items()}
    assert {rows: f.grid for rows, f in found.items()} == {"all": (24,), "heard": (5,), "attended": (5,)}
    assert torch.equal(found["heard"].values, found["all"].values[:, :5])
    assert not torch.allclose(found["attended"].values, found["heard"].values, atol=1e-3)
    with pytest.raises(SpecError, match="rows 'heard' leave silence out, but nothing is padded"):
        examples.WHISPER.but(rows="heard", padded=False)


def test_whisper_equals_transformers() -> None:
    module = examples.WHISPER.build().eval()
    heard = module.normalise(torch.rand(2, *examples.WHISPER.size) - 0.5)
    wanted = module.model(heard).last_hidden_state
    assert torch.allclose(module(heard).values, wanted, atol=1e-6)
