"""LLaMA-Omni: Whisper -> stacked frames -> LLaMA-3.1, whose answers are spoken while they are written."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import LLAMA_3_1_8B
from omniform.codecs.units import MHUBERT_KM1000
from omniform.connectors.stacked_mlp import StackedMlp
from omniform.decoders.ctc_units import CtcUnits
from omniform.decoders.text import Text
from omniform.encoders.whisper import WHISPER_LARGE_V3, Whisper
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.geometry import SpecError
from omniform.parts import Backbone
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems._llava_release import backbone_of
from omniform.systems._speech_units import separate, separate_rules
from omniform.systems._whisper_release import whisper_rules
from omniform.views.whole import Whole
from omniform.views.windows import Windows

# omni_speech/conversation.py:66-79, 183-191; the tokenizer puts a second sign of the begin before it
# (omni_speech/datasets/preprocess.py:36-55), and the user's words follow the sound on a line of their own (:67-71)
PROMPT = Prompt(
    system="You are a helpful language and speech assistant. You are able to understand the speech content that the "
    "user provides, and assist the user with a variety of tasks using natural language.",
    system_turn="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
    user="<|start_header_id|>user<|end_header_id|>\n\n{media}{text}<|eot_id|>",
    header="<|start_header_id|>assistant<|end_header_id|>\n\n",
    answer="{text}<|eot_id|>",
    media={"audio": "{media}\n"},
    stop=("<|eot_id|>",),
)
CODEC = "codecs.audio."
UNTOLD = Undisclosed("the code for training was not published")
UNDERSTAND = Stage(
    name="understand",
    learn=(Learn(part="audio.connector", lr=2e-5), Learn(part="backbone", lr=2e-5)),
    outputs=("text",),
    data="InstructS2S-200K: spoken instructions, answers in words",
    batch=32,
    epochs=3.0,
    warmup=0.03,
    weight_decay=UNTOLD,
    max_positions=UNTOLD,
    source="arXiv:2409.06666 sections 2.5 and 4.1",
)
SPEAK = replace(
    UNDERSTAND,
    name="speak",
    learn=(Learn(part="audio.decoder", lr=2e-4),),
    outputs=("audio",),
    data="InstructS2S-200K: spoken instructions, spoken answers",
)


def speaker(backbone: Any, width: int = 4096, layers: int = 2, heads: int = 32, mlp_dim: int = 11008) -> Backbone:
    """The layers that tell units: the language model's configuration with other sizes, and a key for each query head
    (speech_generator.py:27-39)."""
    return backbone.but(
        name="", dim=width, layers=layers, heads=heads, kv_heads=heads, head_dim=None, mlp_dim=mlp_dim, tied=False
    )


def layout(whisper_layers: int) -> Layout:
    """Keys of the release. Whisper, the units and the vocoder are downloaded apart (README.md:71-87)."""
    return Layout(
        rules=(
            *whisper_rules("model.speech_encoder.", "inputs.audio.encoder.", whisper_layers),
            ("model.speech_projector.", "inputs.audio.connector."),
            ("speech_generator.layers.", "outputs.audio.trunk.lm.model.layers."),
            ("speech_generator.", "outputs.audio."),
            ("", "backbone.lm."),
        ),
        separate=separate(CODEC),
        separate_rules=separate_rules(MHUBERT_KM1000, CODEC),
        architectures=("OmniSpeech2SLlamaForCausalLM",),
    )


SYSTEM = System(
    slug="llama-omni",
    title="LLaMA-Omni",
    date="2024/09",
    inputs={
        "audio": Continuous(
            encoder=WHISPER_LARGE_V3.but(rows="heard"),
            connector=StackedMlp(),
            views=Windows(most=1, least=0.1),
            fusion=Splice(),
        )
    },
    backbone=LLAMA_3_1_8B,
    outputs={"text": Text(), "audio": CtcUnits(codec=MHUBERT_KM1000, views=Whole(), trunk=speaker(LLAMA_3_1_8B))},
    prompt=PROMPT,
    stages=(UNDERSTAND, SPEAK),
    layout=layout(WHISPER_LARGE_V3.layers),
    source=Source(
        paper="arXiv:2409.06666",
        code="ictnlp/LLaMA-Omni@c63fd72",
        notes="The model gives the rows of what was heard in 30 seconds, ((columns + 1) // 2) // 5 "
        "(omni_speech_arch.py:82-97); the published scripts fill every sound up to 30 seconds before counting, so "
        "that 300 rows are shown (infer.py:55-61): rows='all' of the encoder is that. Speech learns from the states of "
        "an answer's own tokens, and is told from those that these follow from, one before "
        "(speech_generator.py:65-69, omni_speech2s_llama.py:178-180). All layers are causal, so each state is read "
        "once; there the whole answer is told again after every token. A piece is spoken when 40 units wait "
        "(serve/gradio_web_server.py:166-172, 247).",
    ),
    # the counts of the parts' own classes; of the language model, as of LLaMA-3.1-8B
    published_params={
        "backbone": 8030261248, "audio.encoder": 635048960, "audio.connector": 21501952, "audio.decoder": 425649129,
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it; "whisper_dims" sizes the encoder, which it only names.

    Raises:
        SpecError: the configuration holds no sizes of the language model, or of what tells units.
    """
    audio = SYSTEM.continuous("audio")
    backbone = backbone_of(SYSTEM.backbone, config)
    encoder = _whisper(audio.encoder, config.get("whisper_dims"))
    connector: Any = audio.connector
    connector = connector.but(fold=config.get("speech_encoder_ds_rate", connector.fold))
    return replace(
        SYSTEM,
        inputs={"audio": replace(audio, encoder=encoder, connector=connector)},
        backbone=backbone,
        outputs={**SYSTEM.outputs, "audio": _told(SYSTEM.outputs["audio"], backbone, config)},
        layout=layout(encoder.layers),
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )


def _told(told: Any, backbone: Any, config: Mapping[str, Any]) -> CtcUnits:
    """What tells units (speech_generator.py:32-49)."""
    sizes = str(config.get("ctc_decoder_config", "(2,4096,32,11008)"))
    try:
        layers, width, heads, mlp_dim = (int(size) for size in sizes.strip("()").split(","))
    except ValueError:
        raise SpecError(f"ctc_decoder_config {sizes!r} is not (layers, width, heads, MLP's width)") from None
    units = config.get("unit_vocab_size", told.codec.units)
    return told.but(
        trunk=speaker(backbone, width, layers, heads, mlp_dim), copies=config.get("ctc_upsample_factor", told.copies),
        codec=told.codec.but(units=units), weight=config.get("ctc_loss_weight", 1.0),
    )  # fmt: skip


def _whisper(encoder: Any, dims: Mapping[str, int] | None) -> Whisper:
    if dims is None:
        return encoder
    width = dims["n_state"]
    return encoder.but(
        width=width, layers=dims["n_layer"], heads=dims["n_head"], mlp_dim=4 * width, mels=dims["n_mels"],
        positions=dims["n_ctx"],
    )  # fmt: skip
