"""NExT-GPT: ImageBind reads pictures, video and sound, Vicuna speaks, signal tokens steer three diffusion models."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import VICUNA_V1_7B
from omniform.connectors.linear import Linear
from omniform.connectors.query_transformer import QueryTransformer
from omniform.decoders.regressed import Regressed
from omniform.decoders.text import Text
from omniform.diffusion.audio_ldm import AUDIO_LDM_L
from omniform.diffusion.stable_diffusion import STABLE_DIFFUSION_1_5
from omniform.diffusion.text_to_video import ZEROSCOPE_576W
from omniform.encoders.imagebind_audio import IMAGEBIND_HUGE_AUDIO
from omniform.encoders.imagebind_vision import IMAGEBIND_HUGE
from omniform.frozen import FrozenMap
from omniform.fusion.adapted_splice import AdaptedSplice
from omniform.fusion.splice import Splice
from omniform.parts import Rules
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Lora, Shared, Source, Stage, System
from omniform.systems._llava_release import backbone_of
from omniform.views.clips import SoundClips, VideoClips
from omniform.views.fixed import Fixed

# code/model/anyToImageVideoAudio.py:203-257: signs around media of every kind, then signals
SIGNS = ("<Img>", "</Img>")
IMAGES = tuple(f"[IMG{i}]" for i in range(4))
VIDEOS = tuple(f"[VID{i}]" for i in range(24))
SOUNDS = tuple(f"[AUD{i}]" for i in range(8))
SIGNALS = (*IMAGES, *VIDEOS, *SOUNDS)

# code/model/common/utils.py:303-358, anyToImageVideoAudio.py:294-346
PROMPT = Prompt(
    first_user="### Human: {media}{text}",
    user="Human: {media}{text}",
    header="\n### Assistant: ",
    answer="{text}\n###",
    media=dict.fromkeys(("image", "video", "audio"), "<Img>{media}</Img> "),
    answered=dict.fromkeys(("image", "video", "audio"), "{media}"),
    learned_apart=True,
    stop=("###",),
)
CAPTION = replace(PROMPT, first_user="### Human: {media}generate a caption")
HEADS = tuple(f"{modality}.decoder" for modality in ("image", "video", "audio"))
ENCODING = Stage(
    name="encoding-side",
    learn=(Learn(part="image.connector", lr=4e-4),),
    data="cc3m, webvid, audiocaps: captions of media",
    batch=2,
    schedule="linear",
    warmup=0.1,
    weight_decay=0.001,
    max_positions=512,
    prompt=CAPTION,
    source="code/config/base.yaml, stage_1.yaml, code/dsconfig/stage_1.json",
)
DECODING = replace(
    ENCODING,
    name="decoding-side",
    learn=(
        *(Learn(part=part, lr=4e-4) for part in HEADS),
        Learn(part="backbone", tokens=SIGNALS, head=True, lr=4e-4),
    ),
    data="cc3m, webvid, audiocaps: captions are repeated, with the signal of the medium behind them",
    prompt=None,
    source="code/config/base.yaml, stage_2.yaml, code/dsconfig/stage_2.json",
)
INSTRUCT_LORA = Lora(rank=32, alpha=32.0, dropout=0.1, layers=("q_proj", "k_proj", "v_proj", "o_proj"), lr=5e-4)
INSTRUCT = replace(
    DECODING,
    name="instruct",
    learn=(
        Learn(part="image.connector", lr=5e-4),
        *(Learn(part=part, lr=5e-4) for part in HEADS),
        Learn(part="backbone", tokens=(*SIGNS, *SIGNALS), head=True, lr=5e-4),
    ),
    lora=INSTRUCT_LORA,
    data="mosit, text to pictures, video and sound, llava-instruct-150k, alpaca",
    source="code/config/base.yaml, stage_3.yaml, code/dsconfig/stage_3.json",
)


def output(tokens: tuple[str, ...], positions: int, diffusion: Any) -> Regressed:
    """What a signal becomes: hidden states at its tokens, with their embeddings, through a transformer with queries
    (code/model/layers.py:48-110, anyToImageVideoAudio.py:406-445)."""
    return Regressed(tokens=tokens, embedded=True, head=QueryTransformer(positions=positions), diffusion=diffusion)


def projection(released: str, ours: str) -> Rules:
    """Keys of an output projection."""
    inside = (("fc.", "into."), ("tfm.", "transformer."), ("model.", "out."), ("query_embs", "queries"))
    return tuple((released + a, ours + b) for a, b in inside)


PROJECTIONS = (
    ("llama_proj.", "inputs.image.connector.layer."),
    *projection("gen_text_hidden_fcs.0.", "outputs.image.head."),
    *projection("gen_text_hidden_fcs_video.0.", "outputs.video.head."),
    *projection("gen_text_hidden_fcs_audio.0.", "outputs.audio.head."),
)
SEPARATE: Mapping[str, str] = FrozenMap({
    "inputs.image.encoder.": "imagebind_huge",
    "inputs.audio.encoder.": "imagebind_huge",
    "diffusion.image.": "runwayml/stable-diffusion-v1-5",
    "diffusion.video.": "cerspense/zeroscope_v2_576w",
    "diffusion.audio.": "cvssp/audioldm-l-full",
})  # fmt: skip
# code/model/agent.py:63-85 keeps projections, and what learns in the last stage: adapters, all embeddings, the head
LLM = "llama_model.base_model.model."
ADAPTERS = AdaptedSplice(layers=INSTRUCT_LORA.layers, rank=32, alpha=32.0, dropout=0.1)
TUNED: Mapping[str, Any] = FrozenMap({
    "inputs.image.fusion": ADAPTERS,
    "stages": (
        ENCODING, DECODING,
        replace(INSTRUCT, learn=(*INSTRUCT.learn, Learn(part="image.fusion", lr=5e-4)), lora=None),
    ),
    "layout.rules": (
        *PROJECTIONS,
        (LLM + "model.embed_tokens.", "backbone.lm.model.embed_tokens."),
        (LLM + "lm_head.", "backbone.lm.lm_head."),
        (LLM, "inputs.image.fusion.adapters."),
    ),
    "layout.separate": {**SEPARATE, **dict.fromkeys(
        ("backbone.lm.model.layers.", "backbone.lm.model.norm."), "vicuna-7b-v0"
    )},
    "layout.separate_rules": {"vicuna-7b-v0": (("", "backbone.lm."),)},
})  # fmt: skip

SYSTEM = System(
    slug="next-gpt",
    title="NExT-GPT",
    date="2023/09",
    inputs={
        "image": Continuous(
            encoder=IMAGEBIND_HUGE, connector=Linear(), views=Fixed(fit="crop", middle="nearest"), fusion=Splice()
        ),
        "video": Shared(input="image", views=VideoClips()),
        "audio": Shared(input="image", views=SoundClips(), encoder=IMAGEBIND_HUGE_AUDIO.but(scaled=False)),
    },
    backbone=VICUNA_V1_7B.but(vocab=32000 + len(SIGNS) + len(SIGNALS)),
    outputs={
        "text": Text(),
        "image": output(IMAGES, 77, STABLE_DIFFUSION_1_5),
        "video": output(VIDEOS, 77, ZEROSCOPE_576W),
        # code/inference.py:33-43
        "audio": output(SOUNDS, 1, AUDIO_LDM_L.but(guidance=7.5, steps=50, seconds=9.0)),
    },
    prompt=PROMPT,
    stages=(ENCODING, DECODING, INSTRUCT),
    special_tokens=(*SIGNS, *SIGNALS),
    layout=Layout(
        rules=PROJECTIONS,
        separate={**SEPARATE, "backbone.lm.": "vicuna-7b-v0, with rows for the added tokens"},
    ),
    source=Source(
        paper="arXiv:2309.05519",
        code="NExT-GPT/NExT-GPT@60d618b NExT-GPT-Lagacy/code",
        notes="The embedding of a sound has unit length here (ImageBind's own is 20). The code resizes the vocabulary "
        "after it froze the language model, which leaves all embeddings and the output head learning in every stage; "
        "the paper freezes them, and here the rows of the added tokens learn. Its optimizer says 4e-4 in the first two "
        "stages, its schedule rises to 5e-4. The third stage counts the loss of video twice. Several media of one kind "
        "are summed to one row there, and take a row each here. Later code (nextgpt/) puts a projection that gathers "
        "groups before the language model and other diffusion models behind it; no weights of it were released.",
    ),
    published_params={
        "image.encoder": 632829440, "audio.encoder": 86235648, "image.connector": 4198400, "backbone": 6738726912,
        "image.decoder": 31958784, "video.decoder": 32090112, "audio.decoder": 31788544,
    },
    variants={"7b-tiva-v0": TUNED},
    survey_notes={"modality_decoder": "Zeroscope is misspelt there"},
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system at the sizes of a release's config.json, which is the language model's, with "imagebind_config" and
    the keys of config/base.yaml.

    What is left out stays as published; `freeze_lm` tells of the first two stages, before which nothing is adapted.
    """
    system = SYSTEM if config.get("freeze_lm") else SYSTEM.variant("7b-tiva-v0")
    backbone = backbone_of(SYSTEM.backbone, config) if "hidden_size" in config else SYSTEM.backbone
    outputs = {m: _sized(m, o, config) for m, o in system.outputs.items()}
    told = config.get("imagebind_config", {})
    image = replace(system.continuous("image"), encoder=IMAGEBIND_HUGE.but(**_tower(told, "vision")))
    heard = system.continuous("audio").encoder.but(**_tower(told, "audio"), **_spectrogram(told))
    inputs = {**system.inputs, "image": image, "audio": Shared(input="image", views=SoundClips(), encoder=heard)}
    tokens = (*SIGNS, *(token for o in outputs.values() for token in o.signal))
    return replace(
        system,
        inputs=inputs,
        backbone=backbone,
        outputs=outputs,
        special_tokens=tokens,
        stages=() if len(tokens) != len(SIGNS) + len(SIGNALS) else system.stages,
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )


NAMED: Mapping[str, tuple[str, tuple[str, ...]]] = FrozenMap(
    image=("num_gen_img_tokens", IMAGES), video=("num_gen_video_tokens", VIDEOS), audio=("num_gen_audio_tokens", SOUNDS)
)


def _sized(modality: str, form: Any, config: Mapping[str, Any]) -> Any:
    """An output with as many tokens and positions as a configuration says."""
    if modality not in NAMED:
        return form
    key, tokens = NAMED[modality]
    stem = tokens[0].removesuffix("0]")
    named = tuple(f"{stem}{i}]" for i in range(config.get(key, len(tokens))))
    positions = form.head.positions if modality == "audio" else config.get("num_clip_tokens", form.head.positions)
    return form.but(tokens=named, head=form.head.but(positions=positions))


def _tower(told: Mapping[str, Any], tower: str) -> dict[str, Any]:
    names = {"width": "embed_dim", "layers": "num_blocks", "heads": "num_heads"}
    found = {field: told[f"{tower}_{key}"] for field, key in names.items() if f"{tower}_{key}" in told}
    if "width" in found:
        found["mlp_dim"] = 4 * found["width"]
    return {**found, **({"out_dim": told["out_embed_dim"]} if "out_embed_dim" in told else {})}


def _spectrogram(told: Mapping[str, Any]) -> dict[str, Any]:
    names = {"mels": "audio_num_mel_bins", "columns": "audio_target_len"}
    return {field: told[key] for field, key in names.items() if key in told}
