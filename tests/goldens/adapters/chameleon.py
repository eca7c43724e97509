"""Chameleon: the codec of its pictures, the language model in the original layout, tokens and guidance."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omniform import index
from omniform.batch import Tree
from omniform.codecs.vqgan import VqGan
from omniform.decoders.text import Text
from omniform.geometry import Crop, MediaSize, Resize
from omniform.grammar import Grammar, SpanIds
from omniform.inference.cache import KeyValues
from omniform.inference.decoding import Decoding, Place
from omniform.inference.guidance import mixed, poorer
from omniform.inference.sampling import top_p

from ..golden import Golden
from ..runner import GIVEN
from ._load import load

LM = "backbone.lm."


def run(golden: Golden) -> dict[str, Any]:
    if golden.data:
        return geometry(golden) if "cases" in golden.data else tokens(golden)
    return language(golden) if "ids_seq0" in golden.inputs else codec(golden)


# --- language model ----------------------------------------------------------------------------------------------


def language(golden: Golden) -> dict[str, Tensor]:
    """Two sequences packed, one more token of each, and guidance."""
    system = index.release(golden.slug, golden.config)
    rules = tuple((a, b.removeprefix("backbone.")) for a, b in system.layout.rules)
    backbone = system.backbone.build().eval()
    load(backbone, golden.params, rules, "the language model", system)
    first, second = golden.inputs["ids_seq0"], golden.inputs["ids_seq1"]
    tree, cache = Tree.of([len(first), len(second)]), KeyValues()
    hidden = backbone(backbone.embed(torch.cat([first, second])), tree.depth, tree, cache)
    logits = backbone.logits(hidden)
    places = Place.of(tree, [len(first), len(second)])
    step = Decoding(backbone, cache, places).step(golden.inputs["next_ids"])
    # rows of the whole prompt, of the pictures alone, of nothing: ours go from the poorest
    mixes = torch.stack([mixed(logits[[4 + i, 2 + i, i]], (1.2, 3.0)) for i in range(2)])
    return {"logits": logits, "logits_next_step": backbone.logits(step), "cfg_mixed": mixes.repeat(3, 1)}


# --- tokens ------------------------------------------------------------------------------------------------------


def geometry(golden: Golden) -> dict[str, Any]:
    system, found = index.system(golden.slug), {}
    for i, case in enumerate(golden.data["cases"]):
        width, height = case["image_wh"]
        plan = system.plan("image", MediaSize(width=width, height=height))
        resize, *crops = plan.views[0].steps
        assert isinstance(resize, Resize)
        top, left = crops[0].offset if crops and isinstance(crops[0], Crop) else (0, 0)
        told = {
            "resized": list(resize.size[::-1]), "crop_x0": left, "crop_y0": top, "tensor": [1, 3, *plan.size],
            "tokens": plan.positions,
        }  # fmt: skip
        found |= {f"cases/{i}/{key}": value for key, value in told.items()}
    return found


def tokens(golden: Golden) -> dict[str, Any]:
    """Which tokens are pictures, text and neither; codes to tokens; contexts and logits of guidance."""
    data, system = golden.data, index.system(golden.slug)
    vocab: dict[str, int] = data["vocab"]
    span, text = system.coded("image").span, system.outputs["text"]
    assert isinstance(text, Text)
    codes = [vocab[span.name(n)] for n in range(len(data["image_tokens"]))]
    begin, end, turn = (vocab[t] for t in (span.begin, span.end, "<reserved08706>"))
    ids = SpanIds("image", begin, end, tuple(codes), len(codes), 1, 1)
    reserved = [i for token, i in vocab.items() if re.fullmatch(text.reserved, token)]
    grammar = Grammar.of([ids], frozenset(), reserved)
    number = {i: n for n, i in enumerate(codes)}
    prompts = [np.array(p) for p in data["split_inputs_for_cfg"]["input"]]
    split = [p.tolist() for p in prompts]
    for context in ("media", "nothing"):
        split += [poorer(context, p, ids, vocab["<s>"]).tolist() for p in prompts]
    said = data["instruct_cfg"]
    rows = torch.tensor(said["logits"]).flip(0)
    mix = mixed(rows, (said["image"], said["text"])).tolist()
    nucleus = data["top_p_probability"]
    kept = top_p(torch.tensor(nucleus["probs"]).log(), nucleus["top_p"]).softmax(-1)
    return {
        "vocab": GIVEN,
        "image_tokens": sorted(codes), "special_tokens": sorted(reserved),
        "text_tokens": sorted(set(vocab.values()) - grammar.never),
        "begin_image": begin, "end_image": end, "end_turn": turn,
        "bpe2img": {str(i): n for i, n in number.items()},
        "convert_bpe2img/out": [number[i] for i in data["convert_bpe2img"]["inp"]],
        "convert_img2bpe/out": ids.ids_of(data["convert_img2bpe"]["inp"]),
        "split_inputs_for_cfg/output": split, "instruct_cfg/out": [mix] * 3,
        "top_p_probability/out": kept.tolist(), "disallow_at_or_after": GIVEN,
    }  # fmt: skip


# --- pictures ----------------------------------------------------------------------------------------------------


def codec(golden: Golden) -> dict[str, Tensor]:
    """The half of the codec whose weights the golden holds."""
    said = golden.config["ddconfig"]
    spec = VqGan(
        image=said["resolution"], width=said["ch"], levels=tuple(said["ch_mult"]), blocks=said["num_res_blocks"],
        latent=said["z_channels"], attended=tuple(said["attn_resolutions"]), dim=golden.config["embed_dim"],
        entries=golden.config["n_embed"],
    )  # fmt: skip
    part = spec.build().eval()
    half = nn.Module()
    for name in dict.fromkeys(key.split(".")[0] for key in golden.params):
        half.add_module(name, getattr(part, name))
    load(half, golden.params, (("", ""),))
    if "indices" in golden.inputs:
        codes = golden.inputs["indices"][None]
        grid = tuple(golden.expected["codebook_entry"].shape[2:])
        return {"codebook_entry": part.entries(codes, grid), "pixels": part.decode(codes, spec.size)}
    features = part.features(golden.inputs["pixel_values"])
    codes = part.encode(golden.inputs["pixel_values"])
    _, loss = part.reconstruct(golden.inputs["pixel_values"])
    quant = part.entries(codes, tuple(features.shape[2:]))
    return {"pre_quant": features, "indices": codes.flatten(), "quant": quant, "emb_loss": loss}
