"""Qwen-Audio: Whisper, its rows pooled in pairs -> linear layer between two learned rows -> Qwen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.qwen import QWEN_7B
from omniform.connectors.bracketed import Bracketed
from omniform.connectors.linear import Linear
from omniform.decoders.text import Text
from omniform.encoders.whisper import WHISPER_LARGE_V2
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems._llava_release import backbone_of
from omniform.systems._qwen_release import language_of, language_rules
from omniform.systems._whisper_release import whisper_rules
from omniform.views.windows import Windows

# qwen_generation_utils.py:117-210: role and content are tokenized apart; tokenization_qwen.py:525-535: "Audio 1:"
CHATML = Prompt(
    system="You are a helpful assistant.",
    system_turn="<|im_start|>system\n{system}<|im_end|>",
    user="\n<|im_start|>user\n{content}<|im_end|>",
    header="\n<|im_start|>assistant\n",
    answer="{text}<|im_end|>",
    media={"audio": "Audio {number}:{media}\n"},
    bos=False,
    piecewise=True,
    stop=("<|im_end|>", "<|im_start|>", "<|endoftext|>"),
)
# README.md:551-560: signs of the task stand behind the sound, such as
# "<|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|wo_itn|>"
TASKS = Prompt(
    user="{content}", header="", answer="{text}<|endoftext|>", media={"audio": "{media}"}, bos=False,
    stop=("<|endoftext|>",),
)  # fmt: skip
UNKNOWN = Undisclosed("told in the paper's appendix, if at all, which was not at hand")


def stage(name: str, parts: tuple[str, ...], data: str, prompt: Prompt | None = None) -> Stage:
    learn = tuple(Learn(part=part, lr=UNKNOWN) for part in parts)
    return Stage(
        name=name, learn=learn, data=data, prompt=prompt, source="arXiv:2311.07919 section 3", **UNKNOWN.for_all()
    )


def layout(whisper_layers: int, layers: int) -> Layout:
    """Keys of the release."""
    return Layout(
        rules=(
            ("transformer.audio.proj.", "inputs.audio.connector.inner.layer."),
            ("transformer.audio.audio_bos_eos_token.", "inputs.audio.connector.ends."),
            *whisper_rules("transformer.audio.", "inputs.audio.encoder.", whisper_layers),
            *language_rules(layers),
        ),
        architectures=("QWenLMHeadModel",),
    )


SYSTEM = System(
    slug="qwen-audio",
    title="Qwen-Audio",
    date="2023/11",
    inputs={
        "audio": Continuous(
            encoder=WHISPER_LARGE_V2.but(rows="cut", pool=2),
            connector=Bracketed(inner=Linear()),
            views=Windows(most=1, least=0.03),  # three columns give the first pair of rows
            fusion=Splice(),
        )
    },
    backbone=QWEN_7B.but(vocab=155947, norm_eps=1e-5),
    outputs={"text": Text()},
    prompt=CHATML,
    stages=(
        stage("pretrain", ("audio.encoder", "audio.connector"), "speech, sounds and music of over 30 tasks", TASKS),
        stage("tune", ("backbone",), "dialogues about sound, 20 thousand"),
    ),
    layout=layout(WHISPER_LARGE_V2.layers, QWEN_7B.layers),
    source=Source(
        paper="arXiv:2311.07919",
        code="QwenLM/Qwen-Audio@b50fb95",
        notes="The signs <audio> and </audio> are positions whose embeddings are replaced by two learned rows "
        "(modeling_qwen.py:865-867), so they belong to the medium here. A sound is heard as it is alone: in a batch, "
        "there, the columns behind it are those of the longest (audio.py:368-371). Sounds are numbered through the "
        "conversation; there anew in each turn. What the language model does beyond 2,048 positions at inference "
        "(dynamic rotary base, log-n attention) is not here. Answers are sampled at top-p 0.5 "
        "(chat_generation_config.json).",
    ),
    special_tokens=("<audio>", "</audio>", "[[[AUDIO:modality]]]"),
    # of the class itself, without positions, which are no parameters there
    published_params={"audio.encoder": 634864640, "audio.connector": 5255168},
    variants={"base": {"prompt": TASKS}},
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it."""
    audio = SYSTEM.continuous("audio")
    encoder: Any = audio.encoder
    if said := config.get("audio"):
        encoder = encoder.but(
            width=said["n_state"], layers=said["n_layer"], heads=said["n_head"], mlp_dim=4 * said["n_state"],
            mels=said["n_mels"], positions=said["n_ctx"], pool=2 if said.get("avg_pool", True) else 1,
        )  # fmt: skip
    backbone = backbone_of(SYSTEM.backbone, language_of(config))
    return replace(
        SYSTEM,
        inputs={"audio": replace(audio, encoder=encoder)},
        backbone=backbone,
        layout=layout(encoder.layers, backbone.layers),
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )
