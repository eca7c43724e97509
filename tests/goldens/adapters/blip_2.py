"""BLIP-2 on OPT and on Flan-T5: the whole model, the Q-Former's objectives before it meets one, stretched positions.

Golden configurations carry the original's own names; here they are turned into those of a release's config.json.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform import index
from omniform.batch import Features, Node, Tree
from omniform.connectors.qformer import QFormer
from omniform.connectors.qformer_objectives_module import QFormerObjectives
from omniform.encoders.image_module import square_positions

from ..golden import Golden
from . import _family
from ._llava import IGNORED, padded
from ._load import build, load

ENCODER, CONNECTOR = "inputs.image.encoder.", "inputs.image.connector."


def run(golden: Golden) -> dict[str, Any]:
    if golden.data:
        return _family.pictures(golden)
    if "pos_embed" in golden.inputs:
        return positions(golden)
    return objectives(golden) if "text_feats" in golden.expected else whole(golden)


def positions(golden: Golden) -> dict[str, Tensor]:
    """Positions for another map: "pos_embed_8x8" names its rows and columns."""
    table = golden.inputs["pos_embed"]
    sides = {name: tuple(map(int, name.removeprefix("pos_embed_").split("x"))) for name in golden.expected}
    return {name: square_positions(table, (side[0], side[1])) for name, side in sides.items()}


# --- the whole model ---------------------------------------------------------------------------------------------


def whole(golden: Golden) -> dict[str, Tensor]:
    model = build(index.release(golden.slug, _config(golden.config)), golden.params)
    stream = model.stream("image")
    features = stream.encoder(golden.inputs["image"])
    if "text_out_ids" in golden.inputs:
        return answered_apart(golden, model, stream.connector(features).values)
    normed = stream.connector.norm(features.values)
    read = stream.connector.read(normed)
    rows = stream.connector(features).values
    ids, kept = golden.inputs["text_ids"], golden.inputs["text_mask"].bool()
    pictures, queries = rows.shape[:2]
    mask = torch.cat([torch.ones(pictures, queries, dtype=torch.bool), kept], dim=1)
    embeds = torch.cat([rows, model.backbone.embed(ids)], dim=1)
    lengths = mask.sum(1).tolist()
    places = torch.cat([torch.arange(n) for n in lengths])
    logits = padded(model.backbone.logits(model.backbone(embeds[mask], places, Tree.of(lengths))), mask)
    labels = torch.cat([torch.full((pictures, queries), IGNORED), ids.masked_fill(~kept, IGNORED)], dim=1)
    return {
        "vit": features.values, "image_embeds": normed, "qformer": read, "inputs_embeds": embeds,
        "attention_mask": mask.long(), "labels": labels, "logits": logits,
        "loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED),
    }  # fmt: skip


def answered_apart(golden: Golden, model: Any, rows: Tensor) -> dict[str, Tensor]:
    """An encoder reads pictures and words, a decoder answers: all documents in one packed sequence."""
    words, answers = golden.inputs["text_in_ids"], golden.inputs["text_out_ids"]
    kept = torch.cat([torch.ones(rows.shape[:2], dtype=torch.bool), golden.inputs["text_in_mask"].bool()], dim=1)
    said = golden.inputs["text_out_mask"].bool()
    start = torch.full_like(answers[:, :1], model.system.backbone.start_id)
    embeds = torch.cat([rows, model.backbone.embed(words)], dim=1)
    given = model.backbone.embed(torch.cat([start, answers[:, :-1]], dim=1))
    flat, nodes = [], list[Node]()
    for row in range(len(words)):
        flat += [embeds[row, kept[row]], given[row, said[row]]]
        begin = nodes[-1].stop if nodes else 0
        end = begin + len(flat[-2])
        nodes += [Node(begin, end), Node(end, end + len(flat[-1]), len(nodes))]
    tree = Tree(tuple(nodes))
    hidden = model.backbone(torch.cat(flat), tree.depth, tree)
    decoded = torch.cat([hidden[n.start : n.stop] for n in nodes if n.parent >= 0])
    logits, labels = padded(model.backbone.logits(decoded), said), answers.masked_fill(~said, IGNORED)
    return {
        "attention_mask": kept.long(), "decoder_attention_mask": said.long(), "inputs_embeds": embeds,
        "labels": labels, "logits": logits, "loss": F.cross_entropy(logits[said], labels[said]),
    }  # fmt: skip


def _config(config: dict[str, Any]) -> dict[str, Any]:
    vit, former = config["vit"], config["qformer"]
    return {
        "vision_config": {
            "hidden_size": vit["embed_dim"], "num_hidden_layers": vit["depth"], "image_size": vit["img_size"],
            "num_attention_heads": vit["num_heads"], "patch_size": vit["patch_size"],
            "intermediate_size": int(vit["embed_dim"] * vit["mlp_ratio"]), "layer_norm_eps": vit["norm_eps"],
        },
        "qformer_config": {
            "hidden_size": former["hidden"], "num_hidden_layers": former["layers"],
            "num_attention_heads": former["heads"], "intermediate_size": former["inter"],
            "cross_attention_frequency": former["cross_attention_freq"], "layer_norm_eps": former["layer_norm_eps"],
        },
        "text_config": _language(config["lm"]),
        "num_query_tokens": former["num_query_token"],
    }  # fmt: skip


def _language(lm: dict[str, Any]) -> dict[str, Any]:
    if lm.get("type", "opt") == "t5":
        return {
            "model_type": "t5", "d_model": lm["d_model"], "d_kv": lm["d_kv"], "d_ff": lm["d_ff"],
            "num_layers": lm["layers"], "num_heads": lm["heads"], "vocab_size": lm["vocab"],
            "relative_attention_num_buckets": lm["rel_buckets"],
            "relative_attention_max_distance": lm["rel_max_distance"], "dense_act_fn": "gelu",
        }  # fmt: skip
    return {
        "hidden_size": lm["hidden"], "num_hidden_layers": lm["layers"], "num_attention_heads": lm["heads"],
        "ffn_dim": lm["ffn"], "vocab_size": lm["vocab"], "max_position_embeddings": lm["max_pos"],
    }  # fmt: skip


# --- before it meets a language model ----------------------------------------------------------------------------


def objectives(golden: Golden) -> dict[str, Tensor]:
    """Losses, and the features that the original extracts."""
    config = {**golden.config, "lm": {"hidden": 8, "layers": 1, "heads": 1, "ffn": 8, "vocab": 8, "max_pos": 8}}
    system = index.release(golden.slug, _config(config))
    image = system.continuous("image")
    assert isinstance(image.connector, QFormer)
    spec = image.connector.but(words=config["qformer"]["vocab"], longest=config["qformer"]["max_pos"])
    encoder, former = image.encoder.build(), spec.build(in_dim=image.encoder.dim, out_dim=8)
    former.proj = torch.nn.Identity()
    heads = QFormerObjectives(spec, config["embed_dim"])
    rules = system.layout.rules
    load(encoder, _under(golden, ENCODER, rules), _relative(rules, ENCODER))
    load(former, _under(golden, CONNECTOR, rules), _relative(rules, CONNECTOR))
    own = {k: t for k, t in golden.params.items() if not k.startswith(tuple(a for a, _ in rules))}
    load(heads, own, (("Qformer.cls.predictions.", ""), ("", "")))
    return _objectives(golden, encoder.eval(), former.eval(), heads.eval())


def _relative(rules: Any, part: str) -> tuple[tuple[str, str], ...]:
    return tuple((a, b.removeprefix(part)) for a, b in rules if b.startswith(part))


def _under(golden: Golden, part: str, rules: Any) -> dict[str, Tensor]:
    prefixes = tuple(a for a, b in rules if b.startswith(part))
    return {key: tensor for key, tensor in golden.params.items() if key.startswith(prefixes)}


def _objectives(golden: Golden, encoder: Any, former: Any, heads: QFormerObjectives) -> dict[str, Tensor]:
    features: Features = encoder(golden.inputs["image"])
    normed = former.norm(features.values)
    given = normed, golden.inputs["text_ids"], golden.inputs["text_mask"].bool()
    losses = heads(former, *given)
    return {
        "image_feats": heads.pictures(former, normed),
        "text_feats": heads.texts(former, *given[1:]),
        "multimodal": heads.together(former, *given),
        "itm_logits": heads.matches(former, *given),
        "loss_itc": losses["contrast"],
        "loss_itm": losses["match"],
        "loss_lm": losses["caption"],
    }
