"""Chameleon: text and pictures as tokens of one vocabulary, read and written by one transformer."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.qk_normed import CHAMELEON_7B, CHAMELEON_34B, QkNormed
from omniform.codecs.vqgan import MAKE_A_SCENE_512
from omniform.decoders.codes import Codes
from omniform.decoders.text import Text
from omniform.frozen import FrozenMap
from omniform.grammar import CodeSpan
from omniform.parts import Rules
from omniform.prompt import Prompt
from omniform.spec import Discrete, Layout, Learn, Recast, Source, Stage, System, Undisclosed
from omniform.systems._llava_release import backbone_of
from omniform.views.fixed import Fixed

# chameleon/inference/vocab.py:15-90: the digits of a code are letters
IMAGE = CodeSpan(token="IMGIMG{code}Z", digits="ABCDEFGHIJ", begin="<racm3:break>", end="<eoss>")
# chameleon/inference/chameleon.py:108-144 and vocab.py:20: the end of a turn is its own token
TURNS = Prompt(
    user="{content}<reserved08706>",
    header="",
    answer="{text}<reserved08706>",
    media=FrozenMap(image="{media}"),
    stop=("<reserved08706>", "</s>"),
)
# section 2.2: documents as they are
DOCUMENT = replace(TURNS, user="{content}", answer="{text}</s>", stop=("</s>",))

UNPUBLISHED = Undisclosed("the mixture of the data was published, not its documents")


def consolidated(layers: int) -> Layout:
    """Keys of the original release, consolidated.pth and vqgan.ckpt (chameleon/inference/transformer.py)."""
    inside = {
        "attention.wq.": "self_attn.q_proj.", "attention.wk.": "self_attn.k_proj.",
        "attention.wv.": "self_attn.v_proj.", "attention.wo.": "self_attn.o_proj.",
        "attention.q_normalization.": "self_attn.q_norm.",
        "attention.k_normalization.": "self_attn.k_norm.", "feed_forward.w1.": "mlp.gate_proj.",
        "feed_forward.w2.": "mlp.down_proj.", "feed_forward.w3.": "mlp.up_proj.", "attention_norm.": "input_layernorm.",
        "ffn_norm.": "post_attention_layernorm.",
    }  # fmt: skip
    layer = tuple(
        (f"layers.{i}.{a}", f"backbone.lm.model.layers.{i}.{b}") for i in range(layers) for a, b in inside.items()
    )
    return Layout(
        rules=(
            *layer,
            ("tok_embeddings.", "backbone.lm.model.embed_tokens."),
            ("norm.", "backbone.lm.model.norm."),
            ("output.", "backbone.lm.lm_head."),
        ),
        separate={"codecs.image.": "vqgan.ckpt"},
        recast=(
            Recast(ends=("q_proj.weight", "k_proj.weight"), form="paired"),
            Recast(ends=("q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias"), form="paired shared"),
        ),
    )


# transformers' form lacks the codec's decoder, which comes from the original release
HELD = ("encoder", "quant_conv", "quantize", "post_quant_conv")
RULES: Rules = (
    *(
        (f"model.vqmodel.{part}.", f"codecs.image.{part}.")
        for part in ("encoder", "quant_conv", "quantize", "post_quant_conv")
    ),
    ("model.", "backbone.lm.model."),
    ("lm_head.", "backbone.lm.lm_head."),
)
CONVERTED = Layout(
    rules=RULES,
    separate={"codecs.image.decoder.": "vqgan.ckpt"},
    separate_rules={"vqgan.ckpt": (("decoder.", "codecs.image.decoder."),)},
    architectures=("ChameleonForConditionalGeneration",),
)

PRETRAIN = Stage(
    name="pretrain",
    learn=(Learn(part="backbone", lr=1e-4),),
    data="text, text and pictures, interleaved documents",
    batch=Undisclosed("8 million tokens a step"),
    epochs=Undisclosed("4.4 trillion tokens, of which some are seen twice"),
    schedule=Undisclosed("exponential decay to 0"),
    warmup=Undisclosed("4,000 steps, however many there are"),
    weight_decay=0.1,
    max_positions=4096,
    prompt=DOCUMENT,
    source="arXiv:2405.09818 section 2.3.3 and table 1",
)
ALIGN = Stage(
    name="align",
    learn=(Learn(part="backbone", lr=1e-5),),
    data="text, code, visual chat, image generation, interleaved generation, safety",
    batch=128,
    epochs=UNPUBLISHED,
    schedule="cosine",
    warmup=UNPUBLISHED,
    weight_decay=0.1,
    max_positions=4096,
    source="arXiv:2405.09818 section 3.2",
)

# counted by transformers' class (5.23) of facebook/chameleon-30b's sizes
LARGE = {"backbone": CHAMELEON_34B, "published_params": {"backbone": 34294308864}}

SYSTEM = System(
    slug="chameleon",
    title="Chameleon",
    date="2024/05",
    inputs={"image": Discrete(codec=MAKE_A_SCENE_512, span=IMAGE, views=Fixed(fit="crop", rounding="nearest"))},
    backbone=CHAMELEON_7B,
    # vocab.py:60-75: whatever looks like a control token is no text; chameleon.py:47-58, 270-327: guidance
    outputs={"text": Text(reserved="<.+"), "image": Codes(contexts=("nothing", "media"), guidance=(1.2, 3.0))},
    prompt=TURNS,
    stages=(PRETRAIN, ALIGN),
    layout=CONVERTED,
    source=Source(
        paper="arXiv:2405.09818",
        code="facebookresearch/chameleon@dbbe47f",
        notes="Text is sampled at temperature 0.7, top-p 0.9, repetition penalty 1.2, pictures at 0.7 and 0.9 "
        "(chameleon/inference/chameleon.py:44-66). In training a z-loss of 1e-5 and, at 7B, dropout of 0.1 behind the "
        "sub-layers are added; they are not here. The public weights were made not to draw pictures. transformers' "
        "class masks the codes' logits always, which is left off here. 34B is sharded in the original release.",
    ),
    published_params={"image.codec": 68718467, "backbone": 7013158912},
    variants={
        "34b": LARGE,
        "7b-original": {"layout": consolidated(32)},
        "34b-original": {**LARGE, "layout": consolidated(48)},
    },
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as a release's config.json has it: transformers' keys, or the original's params.json."""
    if "n_layers" in config:
        return replace(
            SYSTEM,
            backbone=_original(config),
            layout=consolidated(config["n_layers"]),
            published_params=FrozenMap(),
            variants=FrozenMap(),
        )
    image: Any = SYSTEM.read("image")
    fields = {
        "width": "base_channels", "levels": "channel_multiplier", "blocks": "num_res_blocks", "dim": "embed_dim",
        "latent": "latent_channels", "entries": "num_embeddings", "image": "resolution", "attended": "attn_resolutions",
    }  # fmt: skip
    own = config.get("vq_config") or {}
    said = {f: tuple(own[k]) if isinstance(own[k], list) else own[k] for f, k in fields.items() if own.get(k)}
    return replace(
        SYSTEM,
        inputs={"image": replace(image, codec=image.codec.but(**said))},
        backbone=backbone_of(SYSTEM.backbone, config),
        published_params=FrozenMap(),
        variants=FrozenMap(),
    )


def _original(config: Mapping[str, Any]) -> QkNormed:
    """The language model of a params.json."""
    names = {"dim": "dim", "layers": "n_layers", "heads": "n_heads", "vocab": "vocab_size", "norm_eps": "norm_eps",
             "mlp_dim": "ffn", "rope_theta": "rope_theta", "norm_after": "swin_norm"}  # fmt: skip
    said = {field: config[key] for field, key in names.items() if config.get(key) is not None}
    return CHAMELEON_7B.but(**said, kv_heads=config.get("n_kv_heads") or config["n_heads"])
