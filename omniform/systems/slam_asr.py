"""SLAM-ASR: a frozen encoder of speech -> stacked frames -> a frozen Vicuna that writes down what is said."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import VICUNA_7B
from omniform.connectors.stacked_mlp import StackedMlp
from omniform.decoders.text import Text
from omniform.encoders.hubert import HUBERT_XLARGE, WAVLM_LARGE
from omniform.encoders.whisper import WHISPER_LARGE_V3
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.geometry import SpecError
from omniform.parts import Encoder
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems._llava_release import backbone_of
from omniform.views.windows import Windows

# src/slam_llm/datasets/speech_dataset.py:46-47, 127-134: the sound stands before the sign of the begin, and prompts end
# with a space, as "Transcribe speech to text. " of examples/asr_librispeech/conf/prompt.yaml
PROMPT = Prompt(
    user="{media}<s>USER: {text} ",
    header="\n ASSISTANT:",
    answer="{text}</s>",
    media={"audio": "{media}"},
    bos=False,
    stop=("</s>",),
)
ENCODER = "inputs.audio.encoder."
SEPARATE: Mapping[str, str] = FrozenMap(
    {ENCODER: "facebook/hubert-xlarge-ls960-ft", "backbone.lm.": "lmsys/vicuna-7b-v1.5"}
)

ALIGN = Stage(
    name="align",
    learn=(Learn(part="audio.connector", lr=1e-4),),
    data="librispeech-960h",
    batch=12,
    steps=100000,
    schedule="linear",
    warmup=0.01,
    clip_norm=0.0,
    max_positions=Undisclosed("documents are never cut"),
    source="examples/asr_librispeech/scripts/finetune_hubert_xtralarge_linear_vicuna_7b.sh, asr_config.py:43-66; "
    "src/slam_llm/pipeline/finetune.py:245-260",
)

SYSTEM = System(
    slug="slam-asr",
    title="SLAM-ASR",
    date="2024/02",
    inputs={
        "audio": Continuous(
            encoder=HUBERT_XLARGE,
            connector=StackedMlp(),
            views=Windows(most=1, least=0.105),  # five frames, which make one row
            fusion=Splice(),
        )
    },
    backbone=VICUNA_7B,
    outputs={"text": Text()},
    prompt=PROMPT,
    stages=(ALIGN,),
    layout=Layout(rules=(("encoder_projector.", "inputs.audio.connector."),), separate=SEPARATE),
    source=Source(
        paper="arXiv:2402.08846",
        code="X-LANCE/SLAM-LLM@a68e78f",
        notes="The release holds what was trained: the connector. HuBERT is the one fine-tuned on LibriSpeech, without "
        "its head; it and WavLM are named here by their conversions to transformers. Where the frames are just short "
        "of a whole row, the original adds a row of zeros (samples // 320 // 5 rows, slam_model.py:378-388), which is "
        "left out here. Whisper hears every sound filled up to 30 seconds, and all its rows are read. With HuBERT a "
        "step is 6 documents on each of two GPUs, with the other encoders fewer.",
    ),
    published_params={"audio.connector": 21501952, "backbone": 6738415616},
    variants={
        "wavlm": {
            "inputs.audio.encoder": WAVLM_LARGE,
            "layout.separate": {**SEPARATE, ENCODER: "microsoft/wavlm-large"},
            "published_params": {"audio.connector": 18880512},
        },
        "whisper": {
            "inputs.audio.encoder": WHISPER_LARGE_V3,
            "layout.separate": {**SEPARATE, ENCODER: "openai/whisper-large-v3"},
            "published_params": {"audio.connector": 21501952},
        },
    },
    survey_notes={
        "llm_backbone": "Vicuna 1.5 is LLaMA-2 further trained, and the one whose weights were published",
        "modality_encoder": "recipes with two other encoders were published beside HuBERT's",
    },
)  # fmt: skip

# examples/asr_librispeech/asr_config.py:8-24
ENCODERS: Mapping[str, Encoder] = FrozenMap(hubert=HUBERT_XLARGE, wavlm=WAVLM_LARGE, whisper=WHISPER_LARGE_V3)


def from_release(config: Mapping[str, Any]) -> System:
    """The system that "encoder_name" and "encoder_projector_ds_rate" name, at the sizes of "whisper" and "llama".

    The release itself holds none; these are the fields of its recipes, and the configurations of what it is made of.

    Raises:
        SpecError: a connector that is not linear layers over stacked frames.
    """
    audio = SYSTEM.continuous("audio")
    if config.get("encoder_projector", "linear") != "linear":
        raise SpecError(f"encoder_projector {config['encoder_projector']!r} is another connector; this one is 'linear'")
    name = config.get("encoder_name", "hubert")
    if name not in ENCODERS:
        raise SpecError(f"encoder_name {name!r} is none of {', '.join(ENCODERS)}")
    encoder: Any = ENCODERS[name]
    if dims := config.get("whisper"):
        width = dims["n_state"]
        encoder = encoder.but(
            width=width, layers=dims["n_layer"], heads=dims["n_head"], mlp_dim=4 * width, mels=dims["n_mels"],
            positions=dims["n_ctx"],
        )  # fmt: skip
    connector = StackedMlp(fold=config.get("encoder_projector_ds_rate", 5))
    return replace(
        SYSTEM,
        inputs={"audio": replace(audio, encoder=encoder, connector=connector)},
        backbone=backbone_of(SYSTEM.backbone, config["llama"]) if "llama" in config else SYSTEM.backbone,
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )
