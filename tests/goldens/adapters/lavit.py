"""LaVIT: which patches are kept, what they become for the language model and as codes, and codes to conditions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from omniform import index
from omniform.batch import Features
from omniform.codecs.query_detokenizer import QueryDetokenizer
from omniform.connectors.token_merger import TokenMerger
from omniform.encoders.eva_vit import EvaVit
from omniform.encoders.selected import Selected
from omniform.parts import Rules
from omniform.spec import System
from omniform.weights.layout import separate_rules

from ..golden import Golden
from ._load import load

ENCODER, CONNECTOR, CODEC = "inputs.image.encoder.", "inputs.image.connector.", "codecs.image."


def run(golden: Golden) -> dict[str, Tensor]:
    return tokenizer(golden) if "pixel_values" in golden.inputs else detokenizer(golden)


def rules(system: System, *prefixes: str) -> Rules:
    return tuple(rule for prefix in prefixes for rule in separate_rules(system, prefix))


# --- pictures to features and codes ------------------------------------------------------------------------------


def tokenizer(golden: Golden) -> dict[str, Tensor]:
    """The merger lies twice in the release, for features and for codes; here both are the same."""
    system, params = sized(golden), golden.params
    entry, codec = system.continuous("image"), system.coded("image").codec
    dim = golden.config["llm_dim"]
    seen = entry.encoder.build().eval()
    words: Any = entry.connector.build(in_dim=entry.encoder.dim, out_dim=dim).eval()
    said: Any = codec.build(encoder=seen).eval()
    eyes = tuple(("encoder." + a, b) for a, b in separate_rules(system, ENCODER + "inner."))
    _load(params, (*eyes, *rules(system, ENCODER + "selector.")), {ENCODER: seen})
    _load(params, rules(system, CONNECTOR), {CONNECTOR: words})
    parts = {CODEC + "connector.": said.connector, CODEC + "quantize.": said.quantize}
    _load(params, rules(system, CODEC + "connector."), parts)
    return {**features(golden, seen), **reading(golden, seen, words), **writing(golden, seen, said)}


def sized(golden: Golden) -> System:
    said = golden.config
    width, params = said["width"], golden.params
    eye = Selected(
        inner=EvaVit(
            width=width, layers=said["encoder_layers"], heads=said["encoder_heads"], patch=said["patch"],
            mlp_dim=int(width * said["encoder_mlp_ratio"]), image=said["img"], norm_eps=said["encoder_ln_eps"],
            keep_class=False, head=len(params["encoder.head.bias"]),
        )
    )  # fmt: skip
    merger = TokenMerger(layers=said["merger_layers"], heads=said["merger_heads"], mlp_ratio=said["merger_mlp_ratio"])
    codec = {
        "encoder": eye,
        "connector": merger.but(project="tanh"),
        "dim": said["code_dim"],
        "entries": said["n_code"],
    }
    tiny = index.system("lavit").shrunk("tiny").but({"inputs.image.encoder": eye, "inputs.image.connector": merger})
    return tiny.but({f"outputs.image.codec.{name}": value for name, value in codec.items()})


def kept(golden: Golden, seen: Any) -> tuple[Features, Tensor]:
    found = seen(golden.inputs["pixel_values"])
    return found, seen.kept(found.values, golden.inputs["gumbel_noise"])


def features(golden: Golden, seen: Any) -> dict[str, Tensor]:
    found, keep = kept(golden, seen)
    whole = seen.inner.spec.but(keep_class=True).build().eval()
    whole.load_state_dict(seen.inner.state_dict())
    return {
        "encoder_features": whole(golden.inputs["pixel_values"]).values,
        "keep_logprob": seen.selector(found.values), "keep": keep.float(), "token_nums": keep.sum(1),
    }  # fmt: skip


def reading(golden: Golden, seen: Any, words: Any) -> dict[str, Tensor]:
    found, keep = kept(golden, seen)
    rows = words(Features(found.values, found.grid, keep)).values
    return {
        "merged_all": words.merger(found.values, keep),
        **{f"features_{i}": own[which] for i, (own, which) in enumerate(zip(rows, keep, strict=True))},
    }


def writing(golden: Golden, seen: Any, said: Any) -> dict[str, Tensor]:
    _, keep = kept(golden, seen)
    pixels = golden.inputs["pixel_values"]
    codes = said.encode(pixels, keep)
    begin, end = torch.tensor([32000]), torch.tensor([32001])
    each = enumerate(zip(codes, keep, strict=True))
    return {
        "pre_quant": said.compared(pixels, keep)[keep], "quantized": said.quantize.embedding(codes[keep]),
        **{f"ids_{i}": torch.cat([begin, 32002 + own[which], end]) for i, (own, which) in each},
    }  # fmt: skip


# --- and back ----------------------------------------------------------------------------------------------------


def detokenizer(golden: Golden) -> dict[str, Tensor]:
    """Of the small painter or of the large one, as the weights have it."""
    said, large = golden.config, "unet_proj_1.weight" in golden.params
    system = index.system("lavit" if large else "lavit:v1")
    spec = QueryDetokenizer(
        width=said["embed_dim"], layers=said["depth"], heads=said["heads"], mlp_ratio=said["mlp_ratio"],
        conditions=tuple(said["cond_dims"]),
        pooled=len(golden.params["unet_attnpool.c_proj.bias"]) if large else 0,
    )  # fmt: skip
    module: Any = spec.build(codes=(said["img"] // said["patch"]) ** 2, in_dim=said["in_chans"]).eval()
    _load(golden.params, rules(system, CODEC + "detokenizer."), {CODEC + "detokenizer.": module})
    each = golden.inputs["quantized"].split(golden.inputs["token_nums"].tolist())
    held = nn.utils.rnn.pad_sequence([torch.ones(len(own), dtype=torch.bool) for own in each], batch_first=True)
    condition = module(nn.utils.rnn.pad_sequence(list(each), batch_first=True), held)
    pooled = {} if condition.pooled is None else {"pooled_prompt_embeds": condition.pooled}
    return {"prompt_embeds": condition.rows, **pooled}


def _load(params: dict[str, Tensor], rules: Rules, modules: dict[str, nn.Module]) -> None:
    """Weights that the rules lead into modules at our prefixes."""
    for prefix, module in modules.items():
        own = tuple((a, b.removeprefix(prefix)) for a, b in rules if b.startswith(prefix))
        found = {key: t for key, t in params.items() if key.startswith(tuple(a for a, _ in own))}
        load(module, found, own)
