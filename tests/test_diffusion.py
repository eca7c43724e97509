"""Diffusion models: sizes as published, conditions as transformers gives them, pictures as diffusers makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from omniform import index
from omniform.codecs.vqgan import VqGan
from omniform.connectors.query_transformer import QueryTransformer
from omniform.decoders.regressed import Regressed
from omniform.decoders.text import Text
from omniform.diffusion.audio_ldm import AUDIO_LDM_L
from omniform.diffusion.codec_unet import CodecUnet
from omniform.diffusion.stable_diffusion import (
    OLD_NAMES,
    STABLE_DIFFUSION_1_5,
    STABLE_DIFFUSION_2_1,
    StableDiffusion,
)
from omniform.diffusion.text_to_video import ZEROSCOPE_576W
from omniform.diffusion.words_module import BEGIN, END
from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.spec import System
from omniform.training.weights import load_parts
from omniform.writing import Diffusion

PICTURES: tuple[Diffusion, ...] = (STABLE_DIFFUSION_1_5, STABLE_DIFFUSION_2_1)
EXAMPLES = (*PICTURES, ZEROSCOPE_576W, AUDIO_LDM_L, CodecUnet(codec=VqGan(entries=512)))


def stages(spec: Diffusion) -> dict[str, Any]:
    return {"codec": spec.first_stage.build().eval()} if spec.first_stage else {}


def built(spec: Diffusion) -> Any:
    torch.manual_seed(0)
    return spec.build(**stages(spec)).eval()


def test_every_model_has_an_example() -> None:
    assert {type(e).__name__ for e in EXAMPLES} == set(index.declarations("diffusion"))


def test_full_sizes_are_those_published() -> None:
    """Counted by diffusers and transformers, from the configurations of runwayml/stable-diffusion-v1-5."""
    spec = STABLE_DIFFUSION_1_5
    assert (spec.unet_params(), spec.vae_params(), spec.text_params()) == (859520964, 83653863, 123060480)
    assert STABLE_DIFFUSION_2_1.unet_params() == 865910724  # stabilityai/stable-diffusion-2-1
    assert (spec.positions, spec.width, spec.size) == (77, 768, (512, 512))


@pytest.mark.parametrize("size", ["tiny", "nano"])
@pytest.mark.parametrize("spec", EXAMPLES, ids=repr)
def test_contract(spec: Diffusion, size: Any) -> None:
    small = spec.shrunk(size)
    with torch.device("meta"):
        module = small.build(**stages(small))
    counts = {name: p.numel() for name, p in module.named_parameters()}
    assert sum(counts.values()) == small.num_params()
    learns = {name: number for name, number in counts.items() if not name.startswith(module.idle())}
    assert sum(learns.values()) == small.learnable_params()
    assert all(name.startswith(("unet.", "nothing")) for name in learns)
    assert small.modality == spec.modality and small.guidance == spec.guidance


@pytest.mark.parametrize("spec", PICTURES, ids=repr)
def test_verbs(spec: Diffusion) -> None:
    small = spec.shrunk("tiny")
    module = built(small)
    condition = module.condition(["a cat", "a dog"])
    assert condition.shape == (2, small.positions, small.width) and not torch.equal(condition[0], condition[1])
    nothing = module.condition([""])
    made = [module.render(condition[:1], nothing, torch.Generator().manual_seed(seed), 3.0, 2)[0] for seed in (1, 1, 2)]
    assert made[0].tobytes() == made[1].tobytes() != made[2].tobytes()
    assert (made[0].height, made[0].width) == small.size
    views = torch.randint(0, 256, (2, 3, *small.size), dtype=torch.uint8)
    losses = module.noise_loss(condition, views)
    assert losses.shape == (2,) and (losses > 0).all()
    losses.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in module.unet.parameters())


def test_bytes_stand_between_begin_and_end() -> None:
    module = built(STABLE_DIFFUSION_1_5.shrunk("tiny"))
    ids = module.words(["hi", "x" * 200])
    assert ids.shape == (2, 77) and ids[0].tolist() == [BEGIN, 104, 105, *[END] * 74]
    assert ids[1].tolist() == [BEGIN, *[120] * 75, END]


def test_without_a_tokenizer_words_are_refused() -> None:
    module = built(STABLE_DIFFUSION_1_5.shrunk("tiny").but(tokens="released"))
    with pytest.raises(ValueError, match=r"SD cannot read 'a cat': its tokenizer lies in the directory"):
        module.condition(["a cat"])


def test_the_condition_is_transformers_last_hidden_state() -> None:
    spec = STABLE_DIFFUSION_1_5.shrunk("tiny")
    module = built(spec)
    reference = CLIPTextModel(CLIPTextConfig(**spec.text_config())).eval()
    reference.load_state_dict(module.text_encoder.state_dict())
    wanted = reference(module.words(["a red circle"])).last_hidden_state
    assert torch.equal(module.condition(["a red circle"]), wanted)


def test_pictures_are_those_of_the_pipeline() -> None:
    spec = STABLE_DIFFUSION_1_5.shrunk("tiny")
    module = built(spec)
    pipeline = StableDiffusionPipeline(
        vae=module.vae, text_encoder=module.text_encoder, tokenizer=None, unet=module.unet, scheduler=module.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    condition, nothing = module.condition(["a cat"]).detach(), module.condition([""]).detach()
    (wanted,) = pipeline(
        prompt_embeds=condition, negative_prompt_embeds=nothing, guidance_scale=7.5, num_inference_steps=3,
        generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip
    (made,) = module.render(condition, nothing, torch.Generator().manual_seed(5), 7.5, 3)
    assert np.array_equal(np.asarray(made), np.asarray(wanted))


@pytest.mark.parametrize("old", [False, True])
def test_weights_come_from_a_directory_of_diffusers(tmp_path: Path, old: bool) -> None:
    """Whatever the version of diffusers that wrote it calls the autoencoder's attention."""
    spec = STABLE_DIFFUSION_1_5.shrunk("tiny")
    module, system = built(spec), small_system(spec)
    StableDiffusionPipeline(
        vae=module.vae, text_encoder=module.text_encoder, tokenizer=None, unet=module.unet, scheduler=module.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(tmp_path)  # fmt: skip
    if old:
        file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
        save_file({renamed(k): t for k, t in load_file(file).items()}, file)
    model = system.build()
    load_parts(model, {"image.diffusion": str(tmp_path)})
    loaded = model.part("image.diffusion")
    assert all(torch.equal(a, loaded.state_dict()[name]) for name, a in module.state_dict().items())
    assert torch.equal(loaded.condition(["a"]), module.condition(["a"]))


def renamed(key: str) -> str:
    for old, new in OLD_NAMES:
        key = key.replace(f"attentions.0.{new}", f"attentions.0.{old}")
    return key


def small_system(diffusion: StableDiffusion) -> System:
    image = Regressed(tokens=("<a>",), head=QueryTransformer(positions=1).shrunk("tiny"), diffusion=diffusion)
    return index.system("llava-1.5").shrunk("tiny").but(outputs=FrozenMap(text=Text(), image=image), stages=())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"channels": (320, 650)}, r"channels \[650\] do not divide into 32 groups"),
        ({"image": 500}, r"side 500 do not divide into latents of 64 pixels"),
        ({"heads": (5, 10)}, r"heads \(5, 10\) for 4 levels"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        StableDiffusion(**changes)
