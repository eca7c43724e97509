"""OpenFlamingo: whole models. A golden also holds the language model's layers, wrapped, which releases leave out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omniform import index
from omniform.batch import Fused, Placed, Tree
from omniform.spec import System
from omniform.weights.layout import ours, rules_of, separate_rules

from ..golden import Golden
from ._llava import padded
from ._load import load

APART, LANGUAGE = "[language model] ", "lang_encoder."


def run(golden: Golden) -> dict[str, Tensor]:
    model = loaded(index.release(golden.slug, release_config(golden.config)), golden.params)
    stream, pictures = model.stream("image"), golden.inputs["vision_x"]
    seen = stream.encoder(pictures.flatten(0, 2))
    read = stream.connector(seen).values.unflatten(0, pictures.shape[:2])
    ids, mask = golden.inputs["lang_x"], golden.inputs["attention_mask"].bool()
    logits = packed_logits(model, read, ids, mask, golden.config["media_token_id"])
    return {"vision_tokens": seen.values, "perceiver": read, "logits": padded(logits, mask.long())}


def packed_logits(model: Any, read: Tensor, ids: Tensor, mask: Tensor, sign: int) -> Tensor:
    """All rows in one packed sequence; pictures that a row's text does not name are padding."""
    named = [int((row[keep] == sign).sum()) for row, keep in zip(ids, mask, strict=True)]
    media = [rows[:count] for rows, count in zip(read, named, strict=True)]
    tree, flat = Tree.of(mask.sum(1).tolist()), ids[mask]
    placed = Placed(
        rows=torch.cat(media).flatten(0, 1),
        counts=(read.shape[2],) * sum(named),
        at=torch.empty(0, dtype=torch.long),
        anchors=(flat == sign).nonzero()[:, 0],
        tree=tree,
    )
    fusion = model.stream("image").fusion
    x, state = fusion(model.backbone.embed(flat), placed)
    hidden = model.backbone(x, tree.depth, tree, fused=Fused({fusion: state}))
    return model.backbone.logits(hidden)


def loaded(system: System, params: dict[str, Tensor]) -> Any:
    """The model with a golden's weights: the release's by its rules, the rest by those of the language model's own."""
    main = rules_of(system)
    prefixes = [prefix for prefix in system.layout.separate if prefix.startswith("backbone.")]
    apart = [(APART + a, b) for prefix in prefixes for a, b in separate_rules(system, prefix)]
    told = {key if ours(key, main) else APART + plain(key): values for key, values in params.items()}
    model = system.build()
    load(model, told, (*apart, *main), f"{system.slug} as released")
    return model.eval()


def plain(key: str) -> str:
    """A key of the wrapped language model as its own repository has it."""
    return key.removeprefix(LANGUAGE).replace(".decoder_layer.", ".")


def release_config(config: dict[str, Any]) -> dict[str, Any]:
    vision, gated = config["vision"], config["gated"]
    perceiver = config["perceiver"]
    return {
        "vision_config": {
            "hidden_size": vision["width"], "num_hidden_layers": vision["layers"], "image_size": vision["image_size"],
            "num_attention_heads": vision["heads"], "patch_size": vision["patch_size"],
            "intermediate_size": int(vision["width"] * vision["mlp_ratio"]), "hidden_act": vision["act"],
            "projection_dim": vision["output_dim"],
        },
        "text_config": language_config(config["lm"]),
        "cross_attn_every_n_layers": gated["every"],
        "cross_attention": {"heads": gated["heads"], "head_dim": gated["dim_head"], "mlp_ratio": gated["ff_mult"]},
        "perceiver": {
            "positions": perceiver["num_latents"], "layers": perceiver["depth"], "heads": perceiver["heads"],
            "head_dim": perceiver["dim_head"], "mlp_ratio": perceiver["ff_mult"],
        },
    }  # fmt: skip


def language_config(lm: dict[str, Any]) -> dict[str, Any]:
    """A language model's configuration as transformers has it."""
    if lm["kind"] == "neox":
        return {
            "model_type": "gpt_neox", "hidden_size": lm["hidden"], "num_hidden_layers": lm["layers"],
            "num_attention_heads": lm["heads"], "intermediate_size": lm["inter"], "vocab_size": lm["vocab"],
            "max_position_embeddings": lm["max_pos"], "rotary_pct": lm["rotary_pct"],
            "use_parallel_residual": lm["use_parallel_residual"],
        }  # fmt: skip
    return {
        "model_type": "mpt", "d_model": lm["hidden"], "n_layers": lm.get("layers_override", lm["layers"]),
        "n_heads": lm["heads"], "vocab_size": lm["vocab"], "max_seq_len": lm["max_seq_len"],
        "expansion_ratio": lm.get("mlp_ratio", 4),
        "attn_config": {"qk_ln": lm.get("attn_qk_ln", False), "alibi": lm.get("alibi", True)},
    }  # fmt: skip
