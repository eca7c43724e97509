"""OpenFlamingo: CLIP ViT-L/14 -> perceiver resampler -> gated cross-attention in a frozen MPT or RedPajama-INCITE."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.decoder import Decoder
from omniform.backbones.gpt_neox import REDPAJAMA_3B, GptNeoX
from omniform.backbones.mpt import MPT_1B, MPT_7B, Mpt
from omniform.connectors.perceiver_resampler import PerceiverResampler
from omniform.decoders.text import Text
from omniform.encoders.open_clip import OPEN_CLIP_L_224
from omniform.frozen import FrozenMap
from omniform.fusion.gated_cross_attention import GatedCrossAttention
from omniform.geometry import SpecError
from omniform.parts import Rules
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.views.fixed import Fixed

CHUNK, IMAGE, PAD = "<|endofchunk|>", "<image>", "<PAD>"
# open_flamingo/eval/models/open_flamingo.py:280-281; examples before the question are turns of the same form
QUESTION = Prompt(
    user="{media}Question:{text} Short answer:",
    header="",
    answer=f"{{text}}{CHUNK}",
    media={"image": f"{IMAGE}{{media}}"},
    bos=False,
    stop=(CHUNK,),
)
# open_flamingo/train/data.py:58-76, 178-236, labels train_utils.py:87-89, 120-148: what follows a picture is predicted
# up to the sign that ends its chunk; what stands before the first picture is not
INTERLEAVED = replace(QUESTION, user="{content}")

CLIP_WEIGHTS = "ViT-L-14"  # OpenAI's, as OpenCLIP keeps them
LM = "backbone.lm."
NAMES_1B = (
    (".ln_1.", ".norm_1."),
    (".ln_2.", ".norm_2."),
    (".mlp.mlp_up.", ".ffn.up_proj."),
    (".mlp.mlp_down.", ".ffn.down_proj."),
)
"""What the code of MPT-1B calls the parts of a layer, and what MPT-7B's does."""
MPT_NAMES = ({"transformer.wte": "transformer.wte"}, "norm_f")
NEOX_NAMES = ({"gpt_neox.embed_in": "gpt_neox.embed_in", "embed_out": "lm_head"}, "final_layer_norm")
"""Released name of each embedding, and transformers'; name of the final norm."""


def _rules(backbone: Decoder, kept: Mapping[str, str]) -> Rules:
    """Key rules of a release: it holds the new layers and the embeddings, and leaves out the language model's layers.

    Every layer is wrapped with the block before it (open_flamingo/src/flamingo_lm.py:6-62).
    """
    layers = ((f"lang_encoder.{backbone.layer_prefix}{i}.gated_cross_attn_layer.", i) for i in range(backbone.layers))
    return (
        ("vision_encoder.", "inputs.image.encoder.visual."),
        ("perceiver.", "inputs.image.connector."),
        *((released, f"inputs.image.fusion.blocks.{i}.") for released, i in layers),
        *((f"lang_encoder.{released}.", f"{LM}{ours}.") for released, ours in kept.items()),
    )


def _language_rules(backbone: Decoder) -> Rules:
    """Key rules of the language model's own repository."""
    if not (isinstance(backbone, Mpt) and backbone.qk_norm):
        return (("", LM),)
    layers = [f"{backbone.layer_prefix}{i}" for i in range(backbone.layers)]
    inside = ((layer + theirs, LM + layer + ours) for layer in layers for theirs, ours in NAMES_1B)
    return (*inside, ("transformer.ln_f.", f"{LM}transformer.norm_f."), ("", LM))


def _layout(backbone: Decoder, repository: str) -> Layout:
    trunk = backbone.layer_prefix.split(".")[0]
    embeddings, norm = MPT_NAMES if isinstance(backbone, Mpt) else NEOX_NAMES
    return Layout(
        rules=_rules(backbone, embeddings),
        separate={
            "inputs.image.encoder.": CLIP_WEIGHTS,
            f"{LM}{backbone.layer_prefix}": repository,
            f"{LM}{trunk}.{norm}.": repository,
        },
        separate_rules={repository: _language_rules(backbone)},
        configured=False,
    )


def _size(backbone: Decoder, every: int, repository: str) -> dict[str, Any]:
    """What a size has of its own."""
    return {
        "backbone": backbone, "inputs.image.fusion.every": every, "layout": _layout(backbone, repository),
        "published_params": {},
    }  # fmt: skip


# GPT-NeoX's 50,277 tokens and three more (open_flamingo/src/factory.py:49-59, 85)
VOCAB = 50280
MPT_9B = MPT_7B.but(vocab=VOCAB)
MPT_3B = MPT_1B.but(vocab=VOCAB)
REDPAJAMA_4B = REDPAJAMA_3B.but(vocab=VOCAB)

SYSTEM = System(
    slug="openflamingo",
    title="OpenFlamingo",
    date="2023/08",
    inputs={
        "image": Continuous(
            encoder=OPEN_CLIP_L_224,
            connector=PerceiverResampler(),
            views=Fixed(fit="crop"),
            fusion=GatedCrossAttention(every=4),
        )
    },
    backbone=MPT_9B,
    outputs={"text": Text()},
    prompt=QUESTION,
    special_tokens=(CHUNK, IMAGE, PAD),
    stages=(
        Stage(
            name="pretrain",
            learn=(
                Learn(part="image.connector", lr=1e-4, weight_decay=0.0),
                Learn(part="image.fusion", lr=1e-4),
                Learn(part="backbone", lr=1e-4, tokens=(CHUNK, IMAGE)),
            ),
            data="mmc4, laion-2b",
            batch=Undisclosed("32 sequences and 64 pairs for each device of the example; on how many is not said"),
            epochs=Undisclosed("60 million sequences and 120 million pairs in all, drawn with replacement"),
            schedule="constant",
            warmup=Undisclosed("1,875 steps in the example, 5,000 by default, however many there are"),
            weight_decay=0.1,
            max_positions=256,
            prompt=INTERLEAVED,
            source="open_flamingo/train/README.md:41-60, train.py:84-103, 375-404, train_utils.py:72-206; "
            "open_flamingo/src/factory.py:97-107",
        ),
    ),
    layout=_layout(MPT_9B, "anas-awadalla/mpt-7b"),
    source=Source(
        paper="arXiv:2308.01390",
        code="mlfoundations/open_flamingo@655f693",
        notes="Each step adds the gradients of a batch of sequences and of a batch of pairs, the loss of pairs times "
        "0.2 (train_utils.py:72-155); pairs are cut at 32 tokens, and the end token behind them is predicted too. "
        "Sequences hold up to six pictures. Weight decay is also on the gates and norms of the new layers. RedPajama "
        "sizes also saw sequences written by ChatGPT. Pictures are flipped at random.",
    ),
    published_params={
        "image.encoder": 303966208, "image.connector": 63019008, "image.fusion": 1115815952, "backbone": 6648664064,
        "total": 8131465232,
    },
    variants={
        "3b": _size(MPT_3B, 1, "anas-awadalla/mpt-1b-redpajama-200b"),
        "3b-instruct": _size(MPT_3B, 1, "anas-awadalla/mpt-1b-redpajama-200b-dolly"),
        "4b": _size(REDPAJAMA_4B, 2, "togethercomputer/RedPajama-INCITE-Base-3B-v1"),
        "4b-instruct": _size(REDPAJAMA_4B, 2, "togethercomputer/RedPajama-INCITE-Instruct-3B-v1"),
    },
    survey_notes={
        "llm_backbone": "the survey leaves out the sizes on RedPajama-INCITE; the one on LLaMA is deprecated",
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system at the sizes of a configuration; the releases themselves hold none, and are read by their size's name.

    Args:
        config: "vision_config" and "text_config" as transformers has them, "cross_attn_every_n_layers", and, where they
            differ from the released, "perceiver" and "cross_attention" with fields of these parts.
    """
    image, language = SYSTEM.continuous("image"), config["text_config"]
    families: dict[str, type[Decoder]] = {"mpt": Mpt, "gpt_neox": GptNeoX}
    if language.get("model_type") not in families:
        raise SpecError(f"text_config.model_type {language.get('model_type')!r} is none of {', '.join(families)}")
    backbone: Decoder = families[language["model_type"]].from_config(language)
    vision = config.get("vision_config", {})
    encoder: Any = image.encoder
    if vision:
        encoder = encoder.but(**type(encoder).fields_of(vision), shared_dim=vision.get("projection_dim", 768))
    fusion = GatedCrossAttention(every=config["cross_attn_every_n_layers"], **config.get("cross_attention", {}))
    connector = PerceiverResampler(**config.get("perceiver", {}))
    return replace(
        SYSTEM,
        inputs={"image": replace(image, encoder=encoder, connector=connector, fusion=fusion)},
        backbone=backbone,
        layout=_layout(backbone, config.get("language_model", "the language model")),
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )
