"""SALMONN: Whisper and BEATs -> window-level Q-Former -> Vicuna with low-rank adapters; hears speech, sounds, music."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import VICUNA_7B, VICUNA_V1_13B
from omniform.connectors.qformer import QFormer
from omniform.connectors.window_qformer import WindowQFormer
from omniform.decoders.text import Text
from omniform.encoders.beats import BEATS_ITER3_PLUS_AS2M, Beats
from omniform.encoders.several_audio import SeveralAudio
from omniform.encoders.whisper import WHISPER_LARGE_V2, Whisper
from omniform.frozen import FrozenMap
from omniform.fusion.adapted_splice import AdaptedSplice
from omniform.geometry import SpecError
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems._llava_release import backbone_of
from omniform.views.windows import Windows

ENCODER, CONNECTOR = "inputs.audio.encoder.members.", "inputs.audio.connector."
# each answer is tokenized by itself, which puts a space before it (models/salmonn.py:263-370)
PROMPT = Prompt(
    user="USER: {media}{text}",
    header="\nASSISTANT:",
    answer=" {text}</s>",
    media={"audio": "<Speech>{media}</Speech> "},
    stop=("</s>",),
)
# models/salmonn.py:203-245: 0.333333 seconds of 1500 frames in 30 seconds
FORMER = QFormer(positions=1, layers=2, cross_every=1, normed=False)
ANSWERS = Undisclosed("answers end after 300 tokens, prompts are not cut")
INSTRUCT = Stage(
    name="instruct",
    learn=(Learn(part="audio.connector", lr=3e-5), Learn(part="audio.fusion", lr=3e-5)),
    data="salmonn-instructions",
    batch=8,
    steps=90000,
    warmup=1 / 30,
    weight_decay=0.05,
    clip_norm=0.0,
    max_positions=ANSWERS,
    source="configs/config.yaml:50-85, runner.py, optims.py:96-140",
)
UNTOLD = Undisclosed("the published configuration does not say of which stage it is the end")
PRETRAIN = replace(
    INSTRUCT,
    name="pretrain",
    learn=(Learn(part="audio.connector", lr=UNTOLD), Learn(part="audio.fusion", lr=UNTOLD)),
    data="librispeech-960h, gigaspeech-m, wavcaps, audiocaps, clotho",
    batch=UNTOLD,
    epochs=UNTOLD,
    steps=None,
    warmup=UNTOLD,
    schedule=UNTOLD,
    weight_decay=UNTOLD,
    source="arXiv:2310.13289 section 3.2",
)
ACTIVATE = replace(
    PRETRAIN,
    name="activate",
    learn=(Learn(part="audio.fusion", lr=UNTOLD),),
    data="12 stories about sounds, told by the model with weaker adapters",
    steps=12,
    source="arXiv:2310.13289 sections 3.3 and 4.4",
)
SEPARATE: Mapping[str, str] = FrozenMap({
    ENCODER + "0.": "openai/whisper-large-v2",
    ENCODER + "1.": "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2",
    "backbone.lm.": "lmsys/vicuna-13b-v1.1",
})  # fmt: skip

SYSTEM = System(
    slug="salmonn",
    title="SALMONN",
    date="2023/10",
    inputs={
        "audio": Continuous(
            encoder=SeveralAudio(members=(WHISPER_LARGE_V2, BEATS_ITER3_PLUS_AS2M)),
            connector=WindowQFormer(inner=FORMER),
            views=Windows(most=1, least=1.0, mix="first"),  # dataset.py:64-82
            fusion=AdaptedSplice(rank=8, alpha=32.0, dropout=0.1),
        )
    },
    backbone=VICUNA_V1_13B,
    outputs={"text": Text()},
    prompt=PROMPT,
    stages=(PRETRAIN, INSTRUCT, ACTIVATE),
    layout=Layout(
        rules=(
            ("speech_encoder.", ENCODER + "0.model."),
            ("beats.", ENCODER + "1."),
            ("ln_speech.", CONNECTOR + "norms.0."),
            ("ln_audio.", CONNECTOR + "norms.1."),
            ("speech_query_tokens", CONNECTOR + "former.query_tokens"),
            ("speech_Qformer.bert.", CONNECTOR + "former.bert."),
            ("speech_llama_proj.", CONNECTOR + "former.proj."),
            ("llama_model.base_model.model.", "inputs.audio.fusion.adapters."),
        ),
        separate=SEPARATE,
    ),
    source=Source(
        paper="arXiv:2310.13289",
        code="bytedance/SALMONN@a58bba7 (branch salmonn)",
        notes="The release holds what was trained: connector and adapters. BEATs gives 8 patches for each 160 ms, one "
        "after another, and they are joined to Whisper's 1,500 cells of 20 ms by number. Originals heard in a batch "
        "are lengthened to the longest, which BEATs' mask keeps apart only roughly; here each is heard alone. The "
        "row of the tokenizer's [PAD] is left out: nothing reads it. The learning rate ends at a third of its peak. "
        "Activation tells stories with weaker adapters first. Sound of other rates than 16 kHz is resampled here. "
        "The 7B size on Vicuna 1.5 is as its model card tells.",
    ),
    published_params={
        "audio.encoder": 727501695, "audio.connector": 26779392, "audio.fusion": 6553600, "backbone": 13015864320,
    },
    variants={"7b": {"backbone": VICUNA_7B, "layout.separate": {**SEPARATE, "backbone.lm.": "lmsys/vicuna-7b-v1.5"}}},
    survey_notes={"llm_backbone": "the 7B size came after the paper, on Vicuna 1.5"},
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system at the sizes of "whisper_config", "beats_config", "qformer_config", "llama_config" and "lora".

    The release itself holds none; these are the configurations of what it is made of. What is left out stays.

    Raises:
        SpecError: the windows are no longer than nothing.
    """
    audio = SYSTEM.continuous("audio")
    members: Any = audio.encoder
    whisper, beats = members.members
    if "whisper_config" in config:
        whisper = Whisper(name=whisper.name, **Whisper.fields_of(config["whisper_config"]))
    if "beats_config" in config:
        beats = Beats(**Beats.fields_of(config["beats_config"]))
    return replace(
        SYSTEM,
        inputs={
            "audio": replace(
                audio,
                encoder=SeveralAudio(members=(whisper, beats)),
                connector=_connector(config),
                fusion=_fusion(audio.fusion, config.get("lora", {})),
            )
        },
        backbone=backbone_of(SYSTEM.backbone, config["llama_config"]) if "llama_config" in config else SYSTEM.backbone,
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )


def _connector(config: Mapping[str, Any]) -> WindowQFormer:
    said = config.get("qformer_config", {})
    names = {
        "positions": "query_length", "width": "hidden_size", "layers": "num_hidden_layers",
        "heads": "num_attention_heads", "mlp_dim": "intermediate_size", "cross_every": "cross_attention_freq",
    }  # fmt: skip
    former = FORMER.but(**{field: said[key] for field, key in names.items() if key in said})
    kernel, stride = (window_cells(config.get(k, 0.333333)) for k in ("second_per_window", "second_stride"))
    return WindowQFormer(inner=former, kernel=kernel, stride=stride)


def window_cells(seconds: float) -> int:
    """Cells of a window of so many seconds.

    Raises:
        SpecError: not one.
    """
    cells = round(1500 * seconds / 30.0)
    if cells < 1:
        raise SpecError(f"windows of {seconds} seconds hold {cells} cells of 20 ms; give 0.02 seconds or more")
    return cells


def _fusion(fusion: Any, said: Mapping[str, Any]) -> AdaptedSplice:
    return fusion.but(rank=said.get("r", fusion.rank), alpha=float(said.get("alpha", fusion.alpha)))
