"""Every codec keeps its promises; numbers of the originals and of transformers."""

from __future__ import annotations

import io
import wave
from typing import Any

import examples
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import EncodecConfig, EncodecModel, HubertConfig, HubertModel

from omniform import index
from omniform.codecs import mel_units_module
from omniform.codecs.encodec import ENCODEC_24K, ENCODEC_32K, Encodec
from omniform.codecs.mel_units import MelUnits
from omniform.codecs.painter import SD_1_5, SDXL
from omniform.codecs.painter_module import Condition
from omniform.codecs.quantised import Quantised
from omniform.codecs.query_detokenizer import QueryDetokenizer
from omniform.codecs.speech_tokenizer import SPEECH_TOKENIZER
from omniform.codecs.units import MHUBERT_KM1000
from omniform.codecs.vqgan import MAKE_A_SCENE_512, VqGan
from omniform.geometry import Grid, SpecError
from omniform.parts import Codec

every_example = pytest.mark.parametrize("codec", examples.CODECS, ids=str)
FULL = (
    MAKE_A_SCENE_512, MHUBERT_KM1000, ENCODEC_24K, ENCODEC_32K, SPEECH_TOKENIZER, MelUnits(), examples.CHOSEN,
)  # fmt: skip


def extents(codec: Codec) -> tuple[Grid, ...]:
    """The trained one, and odd ones where it reads such."""
    if isinstance(codec, Quantised):
        with pytest.raises(SpecError, match=r"become codes, got \(11, 6\); resize it first"):
            codec.cells((11, 6))
        return (codec.size,)
    return (codec.size, (11, 6), (9, 19)) if codec.modality == "image" else (codec.size, (61,), (33,))


def media(codec: Codec, extent: Grid, count: int = 2) -> Tensor:
    torch.manual_seed(0)
    shape = (count, 3, *extent) if codec.modality == "image" else (count, *extent)
    return torch.rand(shape) * 1.8 - 0.9


@pytest.mark.parametrize("name", [n for n, kind in index.declarations("codecs").items() if issubclass(kind, Codec)])
def test_every_codec_has_an_example(name: str) -> None:
    assert name in {type(codec).__name__ for codec in examples.CODECS}


@every_example
def test_codes_are_as_declared(codec: Codec) -> None:
    torch.manual_seed(0)
    module = codec.build().eval()
    for extent in extents(codec):
        codes = module.encode(media(codec, extent))
        assert codes.shape == (2, codec.codes(extent))
        assert codes.min() >= 0 and codes.max() < codec.codebook
        assert codec.codes(extent) % codec.books == 0


@every_example
def test_media_of_odd_extents_come_back_at_their_extent(codec: Codec) -> None:
    torch.manual_seed(0)
    module = codec.build().eval()
    for extent in extents(codec):
        given = media(codec, extent)
        back = module.decode(module.encode(given), extent)
        assert back.shape == given.shape
        assert back.isfinite().all()


@every_example
def test_a_medium_does_not_depend_on_its_batch(codec: Codec) -> None:
    torch.manual_seed(0)
    module = codec.build().eval()
    given = media(codec, codec.size, 3)
    codes = module.encode(given)
    assert torch.equal(module.encode(given[1:2]), codes[1:2])
    assert torch.allclose(module.decode(codes[1:2], codec.size), module.decode(codes, codec.size)[1:2], atol=1e-5)


@every_example
def test_rendering_gives_what_can_be_saved(codec: Codec) -> None:
    module = codec.build().eval()
    signal = module.render(module.encode(media(codec, codec.size))[0])
    if codec.modality == "image":
        assert isinstance(signal, Image.Image) and signal.size == codec.written[::-1] and signal.mode == "RGB"
    else:
        with wave.open(io.BytesIO(signal)) as file:
            assert file.getframerate() == codec.rate  # type: ignore[attr-defined]
            assert file.getnframes() > 0 and file.getnchannels() == 1


@pytest.mark.parametrize("codec", [*examples.CODECS, *FULL], ids=str)
def test_parameters_are_as_declared(codec: Codec) -> None:
    with torch.device("meta"):
        module = codec.build()
    assert sum(p.numel() for p in module.parameters()) == codec.num_params()


@every_example
def test_flops_are_as_declared(codec: Codec) -> None:
    module, extent = codec.build().eval(), extents(codec)[:2][-1]
    given = media(codec, extent, 1)
    with FlopCounterMode(display=False) as reading:
        module.encode(given)
    recurrent = 0  # which PyTorch's counter does not see
    if isinstance(codec, Encodec):
        recurrent = 2 * codec.cells(extent)[0] * codec.recurrent()[0]
    assert codec.flops(extent) - recurrent == pytest.approx(reading.get_total_flops(), rel=0.1)
    assert codec.decode_flops(extent) > 0


@pytest.mark.parametrize("codec", [*examples.CODECS, *FULL], ids=str)
def test_shrinking(codec: Codec) -> None:
    tiny, nano = codec.shrunk("tiny"), codec.shrunk("nano")
    assert tiny.num_params() < nano.num_params() < 3_000_000
    assert tiny.codes(tiny.size) <= 40 and tiny.codebook <= 32
    assert nano.shrunk("nano") == nano
    assert type(tiny) is type(codec)


# --- pictures ----------------------------------------------------------------------------------------------------


def test_a_picture_of_512_has_1024_codes_of_8192() -> None:
    assert MAKE_A_SCENE_512.codes((512, 512)) == 1024
    assert MAKE_A_SCENE_512.codebook == 8192
    assert MAKE_A_SCENE_512.num_params() == 68718467
    assert MAKE_A_SCENE_512.cells((500, 17)) == (32, 2)


def test_codes_of_another_extent_are_refused() -> None:
    module = examples.CODECS[0].build()
    with pytest.raises(SpecError, match=r"5 codes, but a picture of 8x8 has 4"):
        module.decode(torch.zeros(1, 5, dtype=torch.long), (8, 8))
    with pytest.raises(SpecError, match=r"32 groups"):
        VqGan(width=24)


def test_reconstruction_teaches_encoder_and_codebook() -> None:
    module = examples.CODECS[0].build()
    picture, loss = module.reconstruct(media(examples.CODECS[0], (8, 8)))
    (picture.square().mean() + loss).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def test_codes_of_any_number_come_of_one_picture_each() -> None:
    """Of pictures whose cells are chosen; of all cells where none are, and then the number is fixed."""
    torch.manual_seed(0)
    chosen, whole = (codec.build().eval() for codec in examples.CODECS if isinstance(codec, Quantised))
    views = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8)
    each = chosen.encode_each(views)
    assert {len(own) for own in each} != {16} and all(1 <= len(own) <= 16 for own in each)
    assert all(torch.equal(a, b) for a, b in zip(each, chosen.encode_each(views), strict=True))
    assert torch.equal(chosen.encode_each(views[2:])[0], each[2])
    assert not chosen.spec.counted and whole.spec.counted
    assert [len(own) for own in whole.encode_each(views)] == [16] * 3
    with pytest.raises(SpecError, match="17 codes, but a picture has 1 to 16"):
        chosen.condition([torch.zeros(17, dtype=torch.long)])
    with pytest.raises(SpecError, match="5 codes, but a picture has 16"):
        whole.condition([torch.zeros(5, dtype=torch.long)])


def test_codes_beside_longer_ones_say_the_same() -> None:
    module = examples.CHOSEN.shrunk("tiny").build().eval()
    long, short = torch.arange(11), torch.arange(3)
    both, alone = module.condition([long, short]), module.condition([short])
    assert torch.allclose(both.rows[1:], alone.rows, atol=1e-6)
    assert torch.allclose(both.pooled[1:], alone.pooled, atol=1e-6)


# --- painting ----------------------------------------------------------------------------------------------------


def test_painters_are_those_that_were_released() -> None:
    """Counts of diffusers' own configurations: the denoisers and, in both, one autoencoder."""
    assert SD_1_5.num_params() == 859520964 + 83653863
    assert SDXL.num_params() == 2567463684 + 83653863
    for painter in (SD_1_5, SDXL):
        with torch.device("meta"):
            module = painter.build()
        assert sum(p.numel() for p in module.parameters()) == painter.num_params()


@pytest.mark.parametrize("painter", [SDXL.shrunk("tiny"), SD_1_5.shrunk("nano").but(image=16)], ids=str)
def test_painting_costs_what_is_declared(painter: Any) -> None:
    module = painter.build().eval()
    condition = Condition(torch.randn(1, 5, 8), torch.randn(1, 8) if painter.pooled else None)
    with FlopCounterMode(display=False) as reading:
        module.paint(condition, (16, 16), [0])
    assert painter.flops((16, 16), 5) == pytest.approx(reading.get_total_flops(), rel=0.1)


def test_pictures_follow_from_condition_and_seed_alone() -> None:
    torch.manual_seed(0)
    module = SDXL.shrunk("tiny").build().eval()
    given = Condition(torch.randn(2, 5, 8), torch.randn(2, 8))
    both = module.paint(given, (20, 15), [3, 4])
    alone = module.paint(Condition(given.rows[1:], given.pooled[1:]), (20, 15), [4])  # type: ignore[index]
    assert both.shape == (2, 3, 20, 15) and torch.allclose(both[1:], alone, atol=1e-5)
    assert not torch.allclose(module.paint(given, (20, 15), [5, 4])[0], both[0], atol=1e-3)


def test_no_condition_is_zeros_or_rows_of_its_own() -> None:
    module = SD_1_5.but(empty=3).shrunk("tiny").build()
    poor = module.nothing(Condition(torch.randn(2, 5, 8)))
    assert torch.equal(poor.rows[0, :3], module.empty[0]) and not poor.rows[:, 3:].any()
    assert poor.held.tolist() == [[True] * 3 + [False] * 2] * 2
    with pytest.raises(SpecError, match="2 rows of a condition, but 3 rows stand for none"):
        module.nothing(Condition(torch.randn(2, 2, 8)))
    zeros = SDXL.shrunk("tiny").build().nothing(Condition(torch.randn(2, 5, 8), torch.randn(2, 8)))
    assert not zeros.rows.any() and not zeros.pooled.any() and zeros.held is None


def test_guidance_steps_away_from_no_condition() -> None:
    torch.manual_seed(0)
    module = SD_1_5.shrunk("tiny").but(guidance=3.0).build().eval()
    latents, condition = torch.randn(1, 4, 8, 8), Condition(torch.randn(1, 5, 8))
    rich, poor = (module.predict(latents, 7, c, (16, 16)) for c in (condition, module.nothing(condition)))
    assert torch.allclose(module.guided(latents, 7, condition, (16, 16)), 3 * rich - 2 * poor, atol=1e-5)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecError, match="gives condition of width 768, Painter reads 2048"):
        examples.CHOSEN.but(detokenizer=QueryDetokenizer())
    with pytest.raises(SpecError, match="4 widths, 1 depths and 4 heads"):
        SD_1_5.but(depths=(1,))
    with pytest.raises(SpecError, match="width 10 does not divide into 4 heads"):
        QueryDetokenizer(width=10, heads=4)


# --- sound -------------------------------------------------------------------------------------------------------


def test_frames_are_those_of_the_original() -> None:
    """A second at 16 kHz is 49 frames of HuBERT; a shorter waveform than a frame is one."""
    assert [MHUBERT_KM1000.codes((n,)) for n in (16000, 400, 399, 1, 719, 720)] == [49, 1, 1, 1, 1, 2]
    assert ENCODEC_24K.codes((24000,)) == 75 * 8
    assert ENCODEC_32K.codes((32001,)) == 51 * 4
    assert MHUBERT_KM1000.vocoder.num_params(1000) == 13485443
    assert SPEECH_TOKENIZER.but(streams=8).codes((16001,)) == 51 * 8


def test_runs_of_units_become_one_code() -> None:
    module: Any = examples.CODECS[2].build()
    codes, counts = module.merged(torch.tensor([3, 3, 1, 1, 1, 3]))
    assert (codes.tolist(), counts.tolist()) == ([3, 1, 3], [2, 3, 1])
    views = torch.rand(2, 1, 61) - 0.5
    each, frames = module.encode_each(views), module.encode(module.normalise(views))
    assert all(torch.equal(a, torch.unique_consecutive(b)) for a, b in zip(each, frames, strict=True))


def test_what_is_longer_than_a_chunk_is_heard_in_parts() -> None:
    torch.manual_seed(0)
    codec = MHUBERT_KM1000.shrunk("tiny").but(chunk=24)
    module, given = codec.build().eval(), media(codec, (61,))
    parts = [module.encode(part) for part in (given[:, :24], given[:, 24:48], given[:, 48:])]
    assert torch.equal(module.encode(given), torch.cat(parts, dim=1))
    assert codec.heard(61) == [24, 24, 13] and codec.heard(48) == [24, 24]
    assert MHUBERT_KM1000.cells((1_600_001,)) == (4999 + 1,)
    with pytest.raises(SpecError, match="chunk 0"):
        codec.but(chunk=0)


def test_features_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    codec = MHUBERT_KM1000.shrunk("tiny").but(layers=3, layer=2)
    module = codec.build().eval()
    reference = HubertModel(HubertConfig(**codec.config())).eval()
    reference.load_state_dict(module.hubert.state_dict())
    given = media(codec, (61,))
    wanted = reference(given, output_hidden_states=True).hidden_states[2]
    assert torch.allclose(module.features(given), wanted, atol=1e-5)


@pytest.mark.parametrize("codec", [c for c in examples.CODECS if type(c) is Encodec], ids=str)
def test_encodec_equals_transformers(codec: Any) -> None:
    torch.manual_seed(0)
    module = codec.build().eval()
    for layer in module.model.quantizer.layers:
        layer.codebook.embed.normal_()
    reference = EncodecModel(EncodecConfig(**codec.config())).eval()
    reference.load_state_dict(module.model.state_dict())
    given = media(codec, (61,))
    told = reference.encode(given[:, None], bandwidth=reference.config.target_bandwidths[-1]).audio_codes[0]
    codes = module.encode(given)
    assert torch.equal(codes.unflatten(1, (-1, codec.books)).transpose(1, 2), told[:, : codec.books])
    if codec.streams == codec.held:
        wanted = reference.decode(told[None], [None]).audio_values[:, 0, :61]
        assert torch.allclose(module.decode(codes, (61,)), wanted, atol=1e-5)


# --- units of spectrograms ---------------------------------------------------------------------------------------


def notes(count: int, samples: int = 12800) -> Tensor:
    """Waves of three harmonics, one after the other of four pitches."""
    at = torch.arange(samples) / 16000
    pitch = torch.tensor([220.0, 330.0, 262.0, 440.0]).repeat_interleave(samples // 4)
    phase = (pitch / 16000).cumsum(0) * 2 * torch.pi
    wave = sum(torch.sin(k * phase) / k for k in (1, 2, 3)) * 0.2 * (1 + 0.1 * torch.sin(9 * at))
    return torch.stack([wave.roll(n * samples // 4) for n in range(count)])


def test_a_spectrogram_finds_its_phases_again() -> None:
    """Waveforms of a spectrogram have that spectrogram, nearly; without iteration they are far from it."""
    given = notes(1)
    convergence = []
    for rounds in (0, 60):
        spec = MelUnits(rounds=rounds)
        wanted = mel_units_module._transformed(given, spec)[..., :-1].abs()
        found = mel_units_module.griffin_lim(wanted, spec)
        assert found.shape == given.shape
        again = mel_units_module._transformed(found, spec)[..., :-1].abs()
        convergence.append(float((again - wanted).norm() / wanted.norm()))
    assert convergence[0] > 0.3 and convergence[1] < 0.1


def test_means_learn_from_sounds() -> None:
    torch.manual_seed(0)
    module = MelUnits(units=16, mels=20, width=16, rounds=20).build()
    given = notes(4)
    assert module.renew(given) >= 8
    cells = module.cells(given).flatten(0, 1)
    assert all((cells == mean).all(1).any() for mean in module.means[module.encode(given).unique()])
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    totals = []
    for step in range(60):
        if step in (10, 20):
            module.renew(given)
        errors = module.errors(given)
        total = torch.stack([factor * errors[name] for name, factor in module.spec.errors.items()]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]
    back = module.cells(module.decode(module.encode(given), (12800,)))
    assert (back - module.cells(given)).abs().mean() < 0.35
    assert module.renew(given) < 8


def test_units_of_spectrograms_cover_sounds() -> None:
    spec = MelUnits()
    assert (spec.cell, spec.codes((16000,)), spec.codes((1,)), spec.codes((1025,))) == (512, 32, 1, 3)
    assert spec.num_params() == 256 * (160 + 128) + 2 * (5 * 128**2 + 128) + 129 * 160
    with pytest.raises(SpecError, match=r"twice the hop or more"):
        MelUnits(hop=600)
    with pytest.raises(SpecError, match=r"kernel 4 has no middle"):
        MelUnits(kernel=4)
