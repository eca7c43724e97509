"""VILA-1.5 and NVILA: SigLIP-SO400M -> folded map through an MLP -> LLaMA-3, Vicuna or Qwen-2; pictures and videos."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import LLAMA_2_7B, LLAMA_2_13B, LLAMA_3_8B, VICUNA_13B
from omniform.backbones.qwen2 import QWEN2_1_5B, QWEN2_7B
from omniform.connectors.downsample_mlp import DownsampleMlp
from omniform.connectors.linear import Linear
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_L_336
from omniform.encoders.s2 import S2
from omniform.encoders.siglip import SIGLIP_SO400M_384, SIGLIP_SO400M_448
from omniform.fusion.splice import Splice
from omniform.spec import Continuous, Layout, Learn, Shared, Source, Stage, System, Undisclosed
from omniform.systems._conversations import PLAIN
from omniform.systems._llava_release import CONNECTOR, LINEAR_RULES, NAMED_IN
from omniform.systems._vila import LLAMA_3, LLAMA_3_FIX, QWEN2, VICUNA, vila_release
from omniform.views.among import Among
from omniform.views.dynamic_s2 import DynamicS2
from omniform.views.fixed import Fixed
from omniform.views.frames import Frames
from omniform.views.pooled_frames import PooledFrames
from omniform.views.tiles import Tiles

PARTS = ("image.encoder", "image.connector", "backbone")


def stage(name: str, parts: tuple[str, ...], lr: Any, data: str, batch: Any, source: str, **more: Any) -> Stage:
    learn = tuple(Learn(part=part, lr=lr) for part in parts)
    return Stage(name=name, learn=learn, data=data, batch=batch, source=source, **{"max_positions": 4096, **more})


def stages(folder: str, *, bos: bool) -> tuple[Stage, ...]:
    """The three scripts of one size of VILA-1.5, on one node for the first and the last."""
    scripts = f"NVlabs/VILA@1c88211 scripts/v1_5/release/{folder}/"
    mixture = "coyo-25m + mmc4-core + sharegpt4v-pretrain"
    return (
        stage(
            "align", PARTS[1:2], 1e-3, "llava-cc3m-595k", 256, f"{scripts}1_mm_align.sh:12-55",
            prompt=replace(PLAIN, bos=bos),
        ),
        stage("pretrain", PARTS[1:], 5e-5, mixture, 1024, f"{scripts}2_pretrain.sh:26-65"),
        stage("sft", PARTS, 1e-4, "vila-1.5-sft", 256, f"{scripts}3_sft.sh:12-57"),
    )  # fmt: skip


SCRIPTLESS = Undisclosed("the scripts are in no published commit")
UNKNOWN = dict.fromkeys(("epochs", "schedule", "warmup", "weight_decay", "max_positions"), SCRIPTLESS)
PAPER = "arXiv:2312.07533 section 3"
V1_STAGES = (
    stage("align", PARTS[1:2], SCRIPTLESS, "llava-cc3m-595k", SCRIPTLESS, PAPER, prompt=PLAIN, **UNKNOWN),
    stage("pretrain", PARTS[1:], SCRIPTLESS, "mmc4-core + coyo-25m", SCRIPTLESS, PAPER, **UNKNOWN),
    stage("sft", PARTS[1:], SCRIPTLESS, "vila-sft-1m", SCRIPTLESS, PAPER, **UNKNOWN),
)


def nvila(name: str, parts: tuple[str, ...], lr: float, batch: int, source: str, **more: Any) -> Stage:
    """One script of NVILA; its data mixtures are left empty."""
    return stage(name, parts, lr, "not published", batch, f"NVlabs/VILA@b760c34 scripts/{source}", **more)


NVILA_STAGES = (
    nvila("stage1", PARTS[1:2], 1e-3, 512, "NVILA/stage1_9tile.sh:4-46", max_positions=8192),
    nvila("stage1.5", PARTS[:2], 2e-5, 1024, "NVILA/stage15_9tile.sh:4-47", max_positions=8192, clip_norm=5.0),
    nvila("stage2", PARTS[1:], 2e-5, 1024, "NVILA/stage2_9tile.sh:4-46", max_positions=8192),
    nvila("stage3", PARTS, 1.5e-5, 1024, "NVILA/stage3_9tile.sh:4-49", max_positions=8192, clip_norm=5.0),
)
LITE_STAGES = (
    nvila("align", PARTS[1:2], 1e-3, 2048, "NVILA-Lite/align.sh:4-46"),
    nvila("stage1.5", PARTS[:2], 5e-5, 1024, "NVILA-Lite/stage15.sh:4-46"),
    nvila("pretrain", PARTS[1:], 5e-5, 1024, "NVILA-Lite/pretrain.sh:4-45"),
    nvila("sft", PARTS, 2e-5, 2048, "NVILA-Lite/sft.sh:4-46"),
)
VIDEO_STAGE = nvila("stage4", PARTS, 2e-5, 2048, "NVILA/stage4.sh:4-67", max_positions=16384)

FRAMES = Frames(most=8, between="\n")
ONE = Frames(most=1, after="\n")
"""A picture as it is, and a new line on its own."""
EIGHT = Frames(most=8, rounding="nearest", repeat=True, after="\n")
SIGLIP = Continuous(
    encoder=SIGLIP_SO400M_384, connector=DownsampleMlp(by_column=True), views=Fixed(fit="squash"), fusion=Splice()
)
SIGLIP_448 = Continuous(
    encoder=SIGLIP_SO400M_448, connector=DownsampleMlp(), views=DynamicS2(after="\n"), fusion=Splice()
)
NVILA_INPUTS = {
    "image": SIGLIP_448,
    "video": Shared(input="image", views=EIGHT.but(copies=3)),
}
LITE_INPUTS = {
    "image": replace(
        SIGLIP_448,
        connector=DownsampleMlp(fold=3, hidden=(3,)),
        # several pictures are seen as they are (llava/model/llava_arch.py:863-867)
        views=Among(alone=Tiles(max_tiles=12, after=("\n", "\n")), together=ONE),
    ),
    "video": Shared(input="image", views=EIGHT),
}
VIDEO_INPUTS = {
    "image": replace(SIGLIP_448, views=ONE),
    "video": Shared(input="image", views=PooledFrames(frames=256, pools=((8, 1, 1),), after="\n")),
}
V1_INPUTS = {
    "image": Continuous(encoder=CLIP_L_336, connector=Linear(), views=Fixed(fit="squash"), fusion=Splice()),
    "video": Shared(input="image", views=FRAMES),
}
V1 = {
    "inputs": V1_INPUTS, "prompt": VICUNA, "stages": V1_STAGES,
    "layout": Layout(
        rules=LINEAR_RULES, separate={"inputs.image.encoder.": "openai/clip-vit-large-patch14-336"},
        named_in=NAMED_IN, architectures=("LlavaLlamaForCausalLM",),
    ),
}  # fmt: skip
SHEARED_LLAMA_2_7B = LLAMA_2_7B.but(name="Sheared-LLaMA", dim=2560, heads=20, kv_heads=20, mlp_dim=6912)
QWEN2_NVILA = QWEN2_7B.but(vocab=151648)


def on_llama(backbone: Any, folder: str) -> dict[str, Any]:
    return {"backbone": backbone, "prompt": VICUNA, "stages": stages(folder, bos=True), "published_params": {}}


def on_qwen(inputs: Any, backbone: Any, stages: tuple[Stage, ...]) -> dict[str, Any]:
    return {"inputs": inputs, "backbone": backbone, "prompt": QWEN2, "stages": stages, "published_params": {}}


SYSTEM = System(
    slug="vila",
    title="VILA",
    date="2023/12",
    inputs={"image": SIGLIP, "video": Shared(input="image", views=FRAMES)},
    backbone=LLAMA_3_8B,
    outputs={"text": Text()},
    prompt=LLAMA_3,
    stages=stages("8b", bos=False),
    layout=Layout(
        rules=(
            ("vision_tower/", "inputs.image.encoder."),
            ("mm_projector/layers.", CONNECTOR + "layers."),
            ("llm/", "backbone.lm."),
        ),
        folders=("llm", "vision_tower", "mm_projector"),
        architectures=("LlavaLlamaModel",),
    ),
    source=Source(
        paper="arXiv:2312.07533",
        code="NVlabs/VILA@1c88211, NVlabs/VILA@b760c34",
        notes="The base is Llama-3-VILA1.5-8B; the paper's own sizes are 7b and 13b. Their code was not published: "
        "their views are taken for those of 1.5. Training puts a blank between the pictures of a video "
        "(llava/data/dataset.py:132-135), inference does not. NVILA masks the first new line of an answer and learns "
        "the one after it (llava/utils/tokenizer.py:150-156); here whole answers are learned. "
        "The 40b is not here: its encoder is InternViT-6B.",
    ),
    published_params={"image.encoder": 428225600, "image.connector": 35668992, "backbone": 8030261248},
    survey_notes={
        "llm_backbone": "the survey lists the first generation, here 7b and 13b",
        "modality_encoder": "the survey lists the first generation, here 7b and 13b",
        "connection": "the survey lists the first generation, here 7b and 13b",
    },
    variants={
        "7b": {**V1, "backbone": LLAMA_2_7B, "published_params": {"total": 7046121472}},
        "13b": {**V1, "backbone": LLAMA_2_13B, "published_params": {"total": 13324619776}},
        "1.5-8b-fix": {"prompt": LLAMA_3_FIX},
        "1.5-3b": on_llama(SHEARED_LLAMA_2_7B, "3b"),
        "1.5-3b-s2": {
            **on_llama(SHEARED_LLAMA_2_7B, "3b-s2"),
            "inputs.image.encoder": S2(inner=SIGLIP_SO400M_384, sides=(1, 2)),
        },
        "1.5-13b": on_llama(VICUNA_13B, "13b"),
        "nvila-8b": on_qwen(NVILA_INPUTS, QWEN2_NVILA, NVILA_STAGES),
        "nvila-15b": on_qwen(
            NVILA_INPUTS, QWEN2_NVILA.but(dim=5120, layers=48, heads=40, kv_heads=8, mlp_dim=13824), NVILA_STAGES
        ),
        "nvila-8b-video": on_qwen(VIDEO_INPUTS, QWEN2_NVILA, (VIDEO_STAGE,)),
        "nvila-lite-2b": on_qwen(LITE_INPUTS, QWEN2_1_5B.but(vocab=151648), LITE_STAGES),
        "nvila-lite-8b": on_qwen(LITE_INPUTS, QWEN2_NVILA, LITE_STAGES),
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's configurations have it; "llm", "vision_tower", "mm_projector" hold the folders'."""
    return vila_release(SYSTEM, config)
