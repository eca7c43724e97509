"""Qwen2-Audio: Whisper, its rows pooled in pairs -> linear layer -> Qwen; chats by voice and about sound."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.qwen2 import QWEN1_5_7B
from omniform.connectors.linear import Linear
from omniform.decoders.text import Text
from omniform.encoders.whisper import WHISPER_LARGE_V3
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems._llava_release import backbone_of
from omniform.views.windows import Windows

# transformers 5.23 models/qwen2_audio/processing_qwen2_audio.py, chat_template
CHATML = Prompt(
    system="You are a helpful assistant.",
    system_turn="<|im_start|>system\n{system}<|im_end|>\n",
    user="<|im_start|>user\n{content}<|im_end|>\n",
    header="<|im_start|>assistant\n",
    answer="{text}<|im_end|>\n",
    media={"audio": "Audio {number}: <|audio_bos|>{media}<|audio_eos|>\n"},
    bos=False,
    stop=("<|im_end|>", "<|endoftext|>"),
)
# ... modeling_qwen2_audio.py, the example of forward: what is asked in words, and its answer behind it
TASKS = Prompt(
    user="{content}",
    header="",
    answer="{text}<|endoftext|>",
    media={"audio": "<|audio_bos|>{media}<|audio_eos|>"},
    bos=False,
    stop=("<|endoftext|>",),
)
UNPUBLISHED = Undisclosed("the paper tells what learns, and on which tasks, nothing more")


def stage(name: str, data: str, source: str, prompt: Prompt | None = None) -> Stage:
    learn = tuple(Learn(part=part, lr=UNPUBLISHED) for part in ("audio.encoder", "audio.connector", "backbone"))
    return Stage(name=name, learn=learn, data=data, prompt=prompt, source=source, **UNPUBLISHED.for_all())


SYSTEM = System(
    slug="qwen2-audio",
    title="Qwen2-Audio",
    date="2024/07",
    inputs={
        "audio": Continuous(
            encoder=WHISPER_LARGE_V3.but(rows="attended", pool=2),
            connector=Linear(),
            # three columns give the first pair of rows; a column that has begun counts
            views=Windows(most=1, least=0.03, multiple=160),
            fusion=Splice(),
        )
    },
    backbone=QWEN1_5_7B.but(name="Qwen", vocab=156032, context=8192, norm_eps=1e-5, rope_theta=10000.0),
    outputs={"text": Text()},
    prompt=CHATML,
    stages=(
        stage("pretrain", "speech 370k hours, sound 10k, music 140k", "arXiv:2407.10759 section 2", TASKS),
        stage("tune", "voice chat and audio analysis, not published", "arXiv:2407.10759 section 2"),
    ),
    layout=Layout(
        rules=(
            ("model.audio_tower.", "inputs.audio.encoder.model."),
            ("model.multi_modal_projector.linear.", "inputs.audio.connector.layer."),
            ("model.language_model.", "backbone.lm.model."),
            ("lm_head.", "backbone.lm.lm_head."),
            ("audio_tower.", "inputs.audio.encoder.model."),
            ("multi_modal_projector.linear.", "inputs.audio.connector.layer."),
            ("language_model.", "backbone.lm."),
        ),
        architectures=("Qwen2AudioForConditionalGeneration",),
    ),
    source=Source(
        paper="arXiv:2407.10759",
        code="huggingface/transformers@v5.23 src/transformers/models/qwen2_audio",
        notes="The language model is Qwen 7B under the names of Qwen2. Rows of silence are seen by no layer, "
        "and left out. A third stage, in which answers are compared in pairs (DPO), is not here.",
    ),
    special_tokens=("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"),
    # counted of transformers' class (5.23)
    published_params={"audio.encoder": 636968960, "total": 8397094912},
    variants={"base": {"prompt": TASKS}},
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it; what "audio_config" and "text_config" leave out stays."""
    audio = SYSTEM.continuous("audio")
    encoder: Any = audio.encoder
    said = config.get("audio_config") or {}
    names = {
        "width": "d_model", "layers": "encoder_layers", "heads": "encoder_attention_heads",
        "mlp_dim": "encoder_ffn_dim", "mels": "num_mel_bins", "positions": "max_source_positions",
    }  # fmt: skip
    encoder = encoder.but(**{field: said[key] for field, key in names.items() if key in said})
    language = config.get("text_config") or {}
    return replace(
        SYSTEM,
        inputs={"audio": replace(audio, encoder=encoder)},
        backbone=backbone_of(SYSTEM.backbone, language) if "hidden_size" in language else SYSTEM.backbone,
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )
