"""LLaMA-Adapter: prompts behind gates that begin closed, in the upper layers of a frozen LLaMA; pictures join them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omniform.backbones.llama import LLAMA_7B
from omniform.connectors.mlp import Mlp
from omniform.decoders.text import Text
from omniform.encoders.clip import CLIP_L_224
from omniform.frozen import FrozenMap
from omniform.fusion.adapter_prompts import AdapterPrompts
from omniform.parts import Rules
from omniform.prompt import Prompt
from omniform.spec import Continuous, Layout, Learn, Source, Stage, System, Undisclosed
from omniform.views.fixed import Fixed

# alpaca_finetuning_v1/finetuning.py:19-30, 55-62; a picture takes no place in the text
ALPACA = Prompt(
    user="Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{media}{text}\n\n",
    header="### Response:",
    answer="{text}</s>",
    media={"image": "{media}"},
    stop=("</s>",),
)
INSTRUCT = Stage(
    name="instruct",
    learn=(Learn(part="image.fusion", lr=9e-3 * 32 / 256),),
    data="alpaca-52k",
    batch=32,
    epochs=5.0,
    warmup=0.4,
    weight_decay=0.02,
    clip_norm=0.0,
    max_positions=512,
    source="alpaca_finetuning_v1/finetuning.sh, finetuning.py:100-106 (4 documents on each of 8 GPUs)",
)
TOLD = Undisclosed("arXiv:2303.16199 section 4.2 does not say, and its code was not released")
PICTURES = Stage(
    name="pictures",
    learn=(Learn(part="image.fusion", lr=TOLD), Learn(part="image.connector", lr=TOLD)),
    data="science-qa",
    batch=TOLD,
    epochs=TOLD,
    schedule=TOLD,
    warmup=TOLD,
    weight_decay=TOLD,
    max_positions=TOLD,
    source="arXiv:2303.16199 sections 3.3, 4.2",
)

LAYER = {
    "attention.wq.": "self_attn.q_proj.",
    "attention.wk.": "self_attn.k_proj.",
    "attention.wv.": "self_attn.v_proj.",
    "attention.wo.": "self_attn.o_proj.",
    "feed_forward.w1.": "mlp.gate_proj.",
    "feed_forward.w2.": "mlp.down_proj.",
    "feed_forward.w3.": "mlp.up_proj.",
    "attention_norm.": "input_layernorm.",
    "ffn_norm.": "post_attention_layernorm.",
}
LLM, FUSION = "backbone.lm.model.", "inputs.image.fusion."


def rules(layers: int) -> Rules:
    """Keys of the original LLaMA files and of the adapter beside them."""
    inside = ((f"layers.{i}.{a}", f"{LLM}layers.{i}.{b}") for i in range(layers) for a, b in LAYER.items())
    gates = ((f"layers.{i}.attention.gate", f"{FUSION}layers.{i}.gate") for i in range(layers))
    outside = (
        ("tok_embeddings.", LLM + "embed_tokens."), ("norm.", LLM + "norm."), ("output.", "backbone.lm.lm_head."),
        ("adapter_query.", FUSION + "prompts."),
    )  # fmt: skip
    return (*outside, *gates, *inside)


SYSTEM = System(
    slug="llama-adapter",
    title="LLaMA-Adapter",
    date="2023/03",
    inputs={
        "image": Continuous(
            encoder=CLIP_L_224, connector=Mlp(depth=2), views=Fixed(fit="crop"), fusion=AdapterPrompts()
        )
    },
    backbone=LLAMA_7B.but(neighbours=True),
    outputs={"text": Text()},
    prompt=ALPACA,
    stages=(INSTRUCT, PICTURES),
    layout=Layout(
        rules=rules(LLAMA_7B.layers),
        separate={
            "inputs.image.encoder.": "openai/clip-vit-large-patch14",
            "inputs.image.connector.": "the projection, which was never released",
        },
    ),
    source=Source(
        paper="arXiv:2303.16199",
        code="OpenGVLab/LLaMA-Adapter@521a09d",
        notes="What was released reads text only; the picture's part follows section 3.3, as far as it is told: CLIP, "
        "a learned projection, the result added to every prompt. There, global features of several scales are joined "
        "on channels; which, and how deep the projection is, was not published: here the mean over the patches of one "
        "layer is taken, after an MLP of two layers. Adapters are trained with tanh of the gates; the inference code "
        "(llama/model.py) takes the gates as they are (fusion field `squashed`). Its input field ('### Input:') is not "
        "here.",
    ),
    published_params={"image.fusion": 1229824, "backbone": 6738415616},
)  # fmt: skip


def from_release(config: Mapping[str, Any]) -> System:
    """The system as LLaMA's params.json and the sizes of the adapter (`adapter_len`, `adapter_layer`) have it."""
    multiple = config["multiple_of"]
    backbone = SYSTEM.backbone.but(
        dim=config["dim"], layers=config["n_layers"], heads=config["n_heads"], kv_heads=config["n_heads"],
        vocab=config["vocab_size"], norm_eps=config["norm_eps"],
        mlp_dim=-(-(8 * config["dim"] // 3) // multiple) * multiple,
    )  # fmt: skip
    image = SYSTEM.continuous("image")
    fusion = image.fusion.but(length=config["adapter_len"], layers=config["adapter_layer"])
    return replace(
        SYSTEM, inputs={"image": replace(image, fusion=fusion)}, backbone=backbone, published_params=FrozenMap()
    )
