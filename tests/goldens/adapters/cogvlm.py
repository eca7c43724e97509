"""CogVLM's parts put together: encoder, connector, language model with a visual expert, in both layouts of its release.

Queries, keys and values are one tensor there and three here.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from omniform import index
from omniform.backbones.llama import Llama
from omniform.batch import Fused, Placed, Tree
from omniform.connectors.glu import Glu
from omniform.data.document import Document
from omniform.data.processor import Processor
from omniform.encoders.eva2_clip import Eva2Clip
from omniform.fusion.visual_expert import VisualExpert
from omniform.prompt import Prompt
from omniform.spec import Continuous
from omniform.views.fixed import Fixed

from ..golden import Golden
from ._load import load

IGNORED = -100
LLM, ENCODER, EXPERT = "backbone.lm.", "encoder.", "expert.layers."
SAT = (
    (r"transformer\.word_embeddings", LLM + "model.embed_tokens"),
    (r"transformer\.final_layernorm", LLM + "model.norm"),
    (r"mixins\.lm\.lm_head", LLM + "lm_head"),
    (r"mixins\.eva\.(boi|eoi)", r"signs.\1"),
    (r"mixins\.eva\.linear_proj\.", "connector."),
    (r"mixins\.eva\.vit_model\.transformer\.word_embeddings\.weight", ENCODER + "patch_embedding.cls_embedding"),
    (r"mixins\.eva\.vit_model\.transformer\.position_embeddings", ENCODER + "patch_embedding.position_embedding"),
    (r"mixins\.eva\.vit_model\.mixins\.patch_embedding\.", ENCODER + "patch_embedding."),
    (r"mixins\.eva\.vit_model\.transformer\.(layers\.\d+\.mlp\.)dense_h_to_4h", ENCODER + r"transformer.\1fc1"),
    (r"mixins\.eva\.vit_model\.transformer\.(layers\.\d+\.mlp\.)dense_4h_to_h", ENCODER + r"transformer.\1fc2"),
    (r"mixins\.eva\.vit_model\.", ENCODER),
    (r"mixins\.mlp\.gate_proj\.(\d+)", LLM + r"model.layers.\1.mlp.gate_proj"),
    (r"mixins\.mlp\.vision_gate_proj\.(\d+)", EXPERT + r"\1.mlp.gate_proj"),
    (r"mixins\.mlp\.vision_dense_h_to_4h_list\.(\d+)", EXPERT + r"\1.mlp.up_proj"),
    (r"mixins\.mlp\.vision_dense_4h_to_h_list\.(\d+)", EXPERT + r"\1.mlp.down_proj"),
    (r"mixins\.rotary\.vision_query_key_value_list\.(\d+)", EXPERT + r"\1.self_attn.qkv"),
    (r"mixins\.rotary\.vision_dense_list\.(\d+)", EXPERT + r"\1.self_attn.o_proj"),
    (r"transformer\.(layers\.\d+\.)attention\.query_key_value", LLM + r"model.\1self_attn.qkv"),
    (r"transformer\.(layers\.\d+\.)attention\.dense", LLM + r"model.\1self_attn.o_proj"),
    (r"transformer\.(layers\.\d+\.)mlp\.dense_h_to_4h", LLM + r"model.\1mlp.up_proj"),
    (r"transformer\.(layers\.\d+\.)mlp\.dense_4h_to_h", LLM + r"model.\1mlp.down_proj"),
    (r"transformer\.layers\.", LLM + "model.layers."),
)
HF = (
    (r"model\.vision\.(boi|eoi)", r"signs.\1"),
    (r"model\.vision\.linear_proj\.", "connector."),
    (r"model\.vision\.", ENCODER),
    (r"model\.layers\.(\d+\.)self_attn\.vision_expert_query_key_value", EXPERT + r"\1self_attn.qkv"),
    (r"model\.layers\.(\d+\.)self_attn\.vision_expert_dense", EXPERT + r"\1self_attn.o_proj"),
    (r"model\.layers\.(\d+\.)mlp\.vision_mlp\.", EXPERT + r"\1mlp."),
    (r"model\.(layers\.\d+\.)self_attn\.language_expert_query_key_value", LLM + r"model.\1self_attn.qkv"),
    (r"model\.(layers\.\d+\.)self_attn\.language_expert_dense", LLM + r"model.\1self_attn.o_proj"),
    (r"model\.(layers\.\d+\.)mlp\.language_mlp\.", LLM + r"model.\1mlp."),
    (r"(model\.|lm_head)", LLM + r"\1"),
)


def run(golden: Golden) -> dict[str, Any]:
    model = Pieces(golden)
    features = model.encoder(golden.inputs["image" if "image" in golden.inputs else "images"])
    connected = model.connector(features)
    rows = torch.cat([model.signs["boi"], connected.values[0], model.signs["eoi"]])
    ids, at = golden.inputs["input_ids"][0], torch.arange(1, 1 + len(rows))
    tree = Tree.of([len(ids)])
    embeds, state = model.expert(model.backbone.embed(ids), Placed(rows, (len(rows),), at, at[:1], tree))
    positions = golden.inputs["position_ids"][0]
    hidden = model.backbone(embeds, positions, tree, None, Fused({model.expert: state}))
    return {
        "encoder_features_no_cls": features.values,
        "connector_output_before_boi_eoi": connected.values,
        "logits": model.backbone.logits(hidden)[None],
        **({"labels": labels(golden, model)} if "labels" in golden.expected else {}),
    }


def labels(golden: Golden, model: Pieces) -> Tensor:
    """What is learned of the recorded text, a letter a token; its ids and position ids are held against the file's."""
    prompt = Prompt(user="{media}{text}", header="", answer="{text}\n", media={"image": "{media}"})
    system = index.system("llava-1.5").but(
        inputs={"image": model.image}, backbone=model.backbone.spec, prompt=prompt, stages=(), variants={}
    )
    document = Document.ask("hello", answer="abzc", image=Image.new("RGB", (80, 60)))
    sample = Processor(system, Letters()).sample(document)
    length = len(sample)
    for name, found in (("input_ids", sample.ids), ("position_ids", sample.positions)):
        wanted = golden.inputs[name][0, :length].tolist()
        if found.tolist() != wanted:
            raise ValueError(f"{name}: {found.tolist()} here, {wanted} in the golden")
    learned = torch.full_like(golden.inputs["input_ids"], IGNORED)
    learned[0, :length][torch.from_numpy(sample.learn)] = torch.from_numpy(sample.ids[sample.learn])
    return learned


class Letters:
    """One id for each letter; a new line is the end of the text."""

    bos_id, eos_id = 1, 2

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        return [2 if c == "\n" else 10 + ord(c) - ord("a") for c in text], [(i, i + 1) for i in range(len(text))]


class Pieces(nn.Module):
    """All parts, with a golden's weights."""

    def __init__(self, golden: Golden) -> None:
        super().__init__()
        llm, eva = golden.config["llm"], golden.config["eva"]
        spec = Llama(
            dim=llm["hidden"], layers=llm["num_layers"], heads=llm["heads"], kv_heads=llm["heads"],
            mlp_dim=llm["inner"], vocab=llm["vocab"], context=512, norm_eps=llm["rms_eps"],
            rope_theta=float(llm["rope_base"]),
        )  # fmt: skip
        encoder = Eva2Clip(
            width=eva["hidden_size"], layers=eva["num_layers"], heads=eva["num_attention_heads"],
            mlp_dim=eva["inner_hidden_size"], patch=eva["patch_size"], image=eva["image_size"][0],
            norm_eps=eva["layernorm_epsilon"],
        )  # fmt: skip
        views = Fixed(fit="squash", begin="boi", newline="eoi", still=True)
        connector = Glu(mlp_dim=llm["inner"])
        self.image = Continuous(encoder=encoder, connector=connector, views=views, fusion=VisualExpert())
        self.encoder, self.backbone = encoder.build(), spec.build()
        self.connector: Any = connector.build(in_dim=encoder.dim, out_dim=spec.dim)
        self.expert: Any = VisualExpert().build(backbone=self.backbone, width=spec.dim)
        self.signs = nn.ParameterDict({name: torch.empty(1, spec.dim) for name in ("boi", "eoi")})
        load(self, renamed(golden.params), (("", ""),))
        self.eval()


def renamed(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names."""
    found = {}
    rules = SAT if any(key.startswith("mixins.") for key in params) else HF
    for key, tensor in params.items():
        if key.endswith("inv_freq"):
            continue
        rule = next(((a, b) for a, b in rules if re.match(a, key)), None)
        if rule is None:
            raise KeyError(f"no rule for {key}")
        name = re.sub(rf"^{rule[0]}", rule[1], key)
        if ".qkv." in name:
            parts = zip(("q_proj", "k_proj", "v_proj"), tensor.chunk(3), strict=True)
            found.update({name.replace("qkv", part): piece for part, piece in parts})
        else:
            found[name] = tensor.flatten(0, 1) if name.startswith("signs.") else tensor
    return found
