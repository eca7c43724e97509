"""LaVIT: pictures enter as as many features as they have telling patches, and leave as codes of the same patches."""

from collections.abc import Mapping
from typing import Any

from omniform.backbones.llama import LLAMA_2_7B, LLAMA_7B
from omniform.codecs.painter import SD_1_5, SDXL
from omniform.codecs.quantised import Quantised
from omniform.codecs.query_detokenizer import QueryDetokenizer
from omniform.connectors.token_merger import TokenMerger
from omniform.decoders.codes import Codes
from omniform.decoders.text import Text
from omniform.encoders.eva_vit import EVA_CLIP_G_224
from omniform.encoders.selected import Selected
from omniform.frozen import FrozenMap
from omniform.fusion.splice import Splice
from omniform.grammar import CodeSpan
from omniform.parts import Rules
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.systems._llava_release import backbone_of
from omniform.views.fixed import Fixed

ENCODER, CONNECTOR, CODEC = "inputs.image.encoder.", "inputs.image.connector.", "codecs.image."
VOCAB = 32000 + 2 + 16384  # LaVIT/models/modeling_visual_tokenzier.py:407-420

# lavit_for_generation.py:143-158, 404-430: at least 20 and at most 200 codes, ended by their own token
IMAGE = CodeSpan(token="<image_{code}>", begin="<image_start>", end="<image_end>", least=20, most=200)
# all 40 layers, patches only (modeling_visual_tokenzier.py:384-386)
EYE = Selected(inner=EVA_CLIP_G_224.but(keep_class=False), name="LaVIT Tokenizer")
HIGH = Quantised(
    name="LaVIT Tokenizer",
    writer_name="LaVIT De-Tokenizer",
    encoder=EYE,
    connector=TokenMerger(project="tanh"),
    unit=True,
    detokenizer=QueryDetokenizer(conditions=(768, 1280), pooled=1280),
    painter=SDXL.but(steps=25),
)
# the empty prompt's rows of the text encoder stand for no condition (lavit_for_generation.py:342-357)
LOW = HIGH.but(detokenizer=QueryDetokenizer(), painter=SD_1_5.but(empty=77, steps=25))
# classifier-free guidance: what is left is the sign that a picture begins (lavit_for_generation.py:199-216)
PICTURES = Codes(codec=HIGH, span=IMAGE, contexts=("nothing",), guidance=(4.0,))

# lavit_for_understanding.py:106-176: no begin token, the picture before the words
PROMPT = Prompt(
    user="{content}",
    header="",
    answer="{text}</s>",
    media=FrozenMap(image="{media}"),
    bos=False,
    stop=("</s>",),
)

TOKENIZER, WORDS = "visual_tokenizer/tokenizer_encoder.bin", "language_model/visual_weight.bin"


def layout(detokenizer: str, painter: str, conditions: Rules, more: Mapping[str, str]) -> Layout:
    """Files of the release; the merger lies there twice, as it was trained for codes and then with the words."""
    return Layout(
        rules=(("language_model/", "backbone.lm."),),
        folders=("language_model",),
        configured=False,
        separate={
            ENCODER + "inner.": "visual_tokenizer/eva_vitg_psz14.bin",
            ENCODER + "selector.": TOKENIZER,
            CODEC + "connector.": TOKENIZER,
            CODEC + "quantize.": TOKENIZER,
            CONNECTOR: WORDS,
            CODEC + "detokenizer.": f"visual_tokenizer/{detokenizer}",
            CODEC + "painter.unet.": f"{painter}/unet",
            CODEC + "painter.vae.": f"{painter}/vae",
            **more,
        },
        separate_rules={
            TOKENIZER: (
                ("token_predictor.", ENCODER + "selector."),
                ("causal_encoder.", CODEC + "connector.merger."),
                ("encode_task_layer.", CODEC + "connector.project."),
                ("quantize.", CODEC + "quantize."),
            ),
            WORDS: (("causal_encoder.", CONNECTOR + "merger."), ("vit_proj.", CONNECTOR + "project.")),
            f"visual_tokenizer/{detokenizer}": (*conditions, ("", CODEC + "detokenizer.")),
        },
    )


HIGH_LAYOUT = layout(
    "highres_tokenizer_decoder.bin",
    "highres_pixel_decoding",
    (
        ("unet_proj_1.", CODEC + "detokenizer.conditions.0."),
        ("unet_proj_2.", CODEC + "detokenizer.conditions.1."),
        ("unet_attnpool.", CODEC + "detokenizer.pool."),
    ),
    FrozenMap(),
)
LOW_LAYOUT = layout(
    "tokenizer_decoder.bin",
    "pixel_decoding",
    (("unet_proj.", CODEC + "detokenizer.conditions.0."),),
    FrozenMap({CODEC + "painter.empty": "pixel_decoding/uncond_embeddings.bin"}),
)

UNTOLD = Undisclosed("the paper tells the data, not how the language model was trained on it")
PRETRAIN = Stage(
    name="pretrain",
    learn=(Learn(part="image.connector", lr=UNTOLD), Learn(part="backbone", lr=UNTOLD)),
    data="93M pairs as picture and text, 100M pairs as text and picture, text",
    **UNTOLD.for_all(),
    source="arXiv:2309.04669 sections 3.2 and 4; LaVIT/models/modeling_visual_tokenzier.py:433-447",
)

# counted on the original classes; the painters' by diffusers; the encoder is the codec's, too
EYES, READING, WORDS_READ = 1012588928 + 3227490, 398267392 + 5771264, 6738415616 + 2 * 16386 * 4096
WHOLE = EYES + READING + WORDS_READ + 398267392 + 524288 + 2028960
LARGE = WHOLE + 414002304 + 2567463684 + 83653863
SMALL = WHOLE + 404081792 + 859520964 + 83653863 + 77 * 768
LOW_RES = {"outputs.image.codec": LOW, "layout": LOW_LAYOUT, "published_params": {"total": SMALL}}

SYSTEM = System(
    slug="lavit",
    title="LaVIT",
    date="2023/09",
    inputs={
        "image": Continuous(
            encoder=EYE,
            connector=TokenMerger(),
            views=Fixed(fit="squash", before=IMAGE.begin, after=IMAGE.end),
            fusion=Splice(),
        )
    },
    backbone=LLAMA_2_7B.but(vocab=VOCAB),
    outputs={"text": Text(), "image": PICTURES},
    prompt=PROMPT,
    stages=(PRETRAIN,),
    layout=HIGH_LAYOUT,
    source=Source(
        paper="arXiv:2309.04669",
        code="jy0205/LaVIT@8cde9b4",
        notes="The patches kept of a picture are drawn anew at every call there, here by noise of the picture's own. "
        "Text is asked as 'Question: ... Answer:' in their evaluation, pictures are drawn at temperature 1 among 50 "
        "codes. Picture prompts for drawing enter as codes there (multimodal_synthesis); here, as in training, as "
        "features. The tokenizer was trained before, for 50,000 steps of 2,048 pictures: 1 - cos between features "
        "and what the detokenizer makes of the codes, and twice the squared difference between 1/3 and the share of "
        "kept patches; then the denoiser on it. That is not a stage here. The encoder is frozen always. That the "
        "merger learns with the language model follows from visual_weight.bin. The release's noise schedule and the "
        "77 rows of no condition are those of Stable Diffusion. Names of the added tokens are ours: the original "
        "has numbers only, 32000 and 32001 around a picture, and code n at 32002 + n.",
    ),
    published_params={
        "image.encoder": EYES, "image.connector": READING, "backbone": WORDS_READ, "total": LARGE,
    },
    variants={"v1": LOW_RES, "paper": {**LOW_RES, "backbone": LLAMA_7B.but(vocab=VOCAB)}},
    survey_notes={"llm_backbone": "the paper's weights stand on LLaMA; those that were released, on LLaMA-2"},
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system beside the language model of a release's language_model/config.json."""
    return SYSTEM.but(
        backbone=backbone_of(SYSTEM.backbone, config.get("language_model", config)),
        published_params=FrozenMap(), variants=FrozenMap(),
    )  # fmt: skip
