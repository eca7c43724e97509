"""SpeechGPT: speech as units of HuBERT in LLaMA's vocabulary, read and spoken, its answers thought through in text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import LLAMA_7B
from omniform.codecs.units import MHUBERT_KM1000
from omniform.decoders.codes import Codes
from omniform.decoders.text import Text
from omniform.frozen import FrozenMap
from omniform.grammar import CodeSpan
from omniform.parts import Rules
from omniform.prompt import Chain, Prompt
from omniform.spec import Adapters, Discrete, Layout, Learn, Lora, Source, Stage, System, Undisclosed
from omniform.systems._llava_release import backbone_of
from omniform.systems._speech_units import separate, separate_rules
from omniform.views.whole import Whole

SPEECH = CodeSpan(token="<{code}>", begin="<sosp>", end="<eosp>")
UNITS = "{audio}"
# src/train/cm_sft.py:176-184: units first, then the signs of turns
TOKENS = (UNITS, "[Human]", "[SpeechGPT]", "<eoh>", "<eos>")
# src/infer/cli_infer.py:26-27, 55, 108-121: "[ta]" and "[ua]" are plain words
PROMPT = Prompt(
    system="You are an AI assistant whose name is SpeechGPT.\n"
    "- SpeechGPT is a intrinsic cross-modal conversational language model that is developed by Fudan University.  "
    "SpeechGPT can understand and communicate fluently with human through speech or text chosen by the user.\n"
    "- It can perceive cross-modal inputs and generate cross-modal outputs.\n",
    user="[Human]: {content} <eoh>. ",
    header="[SpeechGPT]: ",
    answer="{text}<eoa>",
    media={"audio": "{media}"},
    stop=("<eoa>", "</s>"),
    chain=Chain(parts=(("transcript", ""), ("text", "; [ta]"), ("speech", "; [ua]"))),
)
# only the text before the first turn is not learned: cm_sft.py:197-240; turns as in README.md's two samples of data
LEARNED = replace(PROMPT, learn_user=True, learn_header=True)
PAIRS = replace(LEARNED, user="[Human]: {content}<eoh> ", answer="{text}<eoa> </s>", chain=None)
CHAINS = replace(LEARNED, user="[Human]: {content}<eoh>. ", answer="{text}<eoa>.</s>")
UNPAIRED = Prompt(
    user="{content}", learn_user=True, header="", answer="{text}", media={"audio": "{media}"}, stop=("</s>",)
)

ADAPT = Stage(
    name="adapt",
    learn=(Learn(part="backbone", lr=5e-5),),
    data="libri-light-60k",
    batch=Undisclosed("192 blocks for each node of 8 GPUs; the number of nodes was not published"),
    epochs=3,
    schedule="linear",
    warmup=0.0,
    max_positions=1024,
    prompt=UNPAIRED,
    source="speechgpt/scripts/ma_pretrain.sh:26-48; what it leaves out is as transformers' TrainingArguments has it",
)
CROSS_MODAL = Stage(
    name="cross-modal",
    learn=(Learn(part="backbone", lr=2e-5),),
    data="SpeechInstruct, cross-modal instructions",
    batch=Undisclosed("576 documents for each node of 8 GPUs; the number of nodes was not published"),
    epochs=3,
    max_positions=512,
    prompt=PAIRS,
    source="speechgpt/scripts/cm_sft.sh:24-56",
)
CHAIN_OF_MODALITY = Stage(
    name="chain-of-modality",
    learn=(),
    lora=Lora(rank=8, alpha=16.0, dropout=0.05, lr=2e-5, layers=("q_proj", "v_proj")),
    data="SpeechInstruct, chain-of-modality instructions",
    batch=Undisclosed("384 documents for each node of 8 GPUs; the number of nodes was not published"),
    epochs=300,
    max_positions=1024,
    prompt=CHAINS,
    source="speechgpt/scripts/com_sft.sh:24-59",
)

CODEC = "codecs.audio."
LANGUAGE: Rules = (("model.", "backbone.lm.model."), ("lm_head.", "backbone.lm.lm_head."))
CM = Layout(rules=LANGUAGE, separate=separate(CODEC), separate_rules=separate_rules(MHUBERT_KM1000, CODEC))
# README.md:30-32: adapters to the model of the stage before
COM = replace(
    CM, rules=(), separate={**CM.separate, "backbone.lm.": "fnlp/SpeechGPT-7B-cm"},
    separate_rules={**CM.separate_rules, "fnlp/SpeechGPT-7B-cm": LANGUAGE},
    adapters=Adapters(layers=("q_proj", "v_proj"), rank=8, alpha=16.0), configured=False,
)  # fmt: skip

SYSTEM = System(
    slug="speechgpt",
    title="SpeechGPT",
    date="2023/05",
    inputs={"audio": Discrete(codec=MHUBERT_KM1000, span=SPEECH, views=Whole())},
    backbone=LLAMA_7B.but(vocab=33006),
    outputs={"text": Text(reserved=r"\[(Human|SpeechGPT)\]|<eo[hs]>"), "audio": Codes()},
    prompt=PROMPT,
    stages=(ADAPT, CROSS_MODAL, CHAIN_OF_MODALITY),
    layout=CM,
    source=Source(
        paper="arXiv:2305.11000",
        code="0nutation/SpeechGPT@b290011",
        notes="Answers are sampled at temperature 0.7, top-p 0.8, top-k 50 (cli_infer.py:149-156). Adaptation fills "
        "blocks of 1,024 positions with documents that see one another; here they do not. Sound of several channels "
        "is heard as their mean, not one channel after the other; of other rates it is resampled by this library's "
        "filter. That mHuBERT hears waveforms as they are is told by its checkpoint alone. fairseq's checkpoint and "
        "the k-means hold pickled objects: save their tensors as safetensors, the means as cluster_centers_.",
    ),
    special_tokens=TOKENS,
    published_params={"audio.codec": 94371712 + 768000 + 13485443, "backbone": 6746656768},
    variants={
        "7b-com": {"layout": COM},
        "7b-ma": {"backbone.vocab": 33002, "special_tokens": (UNITS,), "prompt": UNPAIRED, "outputs.text": Text()},
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system at the sizes of a config.json; one that has units but no signs of turns is the first stage's."""
    backbone = backbone_of(SYSTEM.backbone, config)
    adapted = SYSTEM.variant("7b-ma")
    whole = adapted if backbone.vocab == adapted.backbone.vocab else SYSTEM
    return replace(whole, backbone=backbone, published_params=FrozenMap(), variants=FrozenMap())
