"""CogVLM whole, in both layouts of its release; what is learned of a text; and how the two layouts' keys correspond."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from omniform import index
from omniform.data.document import Document
from omniform.data.processor import Processor
from omniform.spec import System
from omniform.weights.layout import BUFFERS, ours, released, rules_of

from ..golden import Golden
from ..runner import GIVEN
from . import _cogvlm
from ._load import build

IGNORED = -100


def run(golden: Golden) -> dict[str, Any]:
    if golden.data:
        return correspondence(golden)
    system = sized(golden)
    traced = _cogvlm.trace(build(system, golden.params), golden, golden.inputs["position_ids"])
    return {
        "encoder_features_no_cls": traced.encoded,
        "connector_output_before_boi_eoi": traced.connected,
        "logits": traced.logits,
        **({"labels": labels(golden, system)} if "labels" in golden.expected else {}),
    }


def sized(golden: Golden) -> System:
    """The system by SwissArmyTransformer's sizes, as a configuration for transformers says them."""
    llm, eva = golden.config["llm"], golden.config["eva"]
    vision = {
        "hidden_size": eva["hidden_size"], "num_hidden_layers": eva["num_layers"], "patch_size": eva["patch_size"],
        "num_heads": eva["num_attention_heads"], "intermediate_size": eva["inner_hidden_size"],
        "image_size": eva["image_size"][0], "layer_norm_eps": eva["layernorm_epsilon"],
    }  # fmt: skip
    language = {
        "hidden_size": llm["hidden"], "num_hidden_layers": llm["num_layers"], "num_attention_heads": llm["heads"],
        "intermediate_size": llm["inner"], "vocab_size": llm["vocab"], "rms_norm_eps": llm["rms_eps"],
        "rope_theta": float(llm["rope_base"]),
    }  # fmt: skip
    return index.release("cogvlm", {**language, "template_version": "base", "vision_config": vision})


def labels(golden: Golden, system: System) -> Tensor:
    """What is learned of the recorded text, a letter a token; its ids and position ids are held against the file's."""
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
    """One id for each letter, and one for the end."""

    bos_id, eos_id, size = 1, 2, 64

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = [(m.start(), m.end(), m.group()) for m in re.finditer("</s>|.", text)]
        ids = [2 if c == "</s>" else 10 + ord(c) - ord("a") for _, _, c in found]
        return ids, [(start, stop) for start, stop, _ in found]

    def decode(self, ids: Any) -> str:
        return "".join(chr(i - 10 + ord("a")) for i in ids)

    def id_of(self, token: str) -> int:
        return self.encode(token)[0][0]


def correspondence(golden: Golden) -> dict[str, Any]:
    """The second layout's name of every key of the first, through ours."""
    first, second = index.system("cogvlm"), index.system("cogvlm:chat-hf")
    found: dict[str, Any] = {}
    for pattern, wanted in golden.data["sat_to_hf"].items():
        if pattern.endswith(BUFFERS):
            found[f"sat_to_hf/{pattern}"] = GIVEN
            continue
        pairs = list(zip(written(pattern), written(wanted, pattern), strict=True))
        there = [released(ours(key, rules_of(first)) or "", rules_of(second)) for key, _ in pairs]
        wrong = [a for a, (_, b) in zip(there, pairs, strict=True) if a != b]
        found[f"sat_to_hf/{pattern}"] = wrong[0] if wrong else wanted
    return found


def written(pattern: str, like: str = "") -> list[str]:
    """Keys that a pattern stands for, of the eighth layer; "(same)" stands for the choices of another one."""
    choices = re.search(r"\{([^{}]+,[^{}]+)\}", like or pattern)
    names = choices[1].split(",") if choices else [""]
    text = pattern.replace("{i}", "7").replace("(same)", "\0")
    text = re.sub(r"\{[^{}]+,[^{}]+\}", "\0", text)
    leaves = ("weight", "bias") if text.endswith("*") else ("",)
    return [text.replace("\0", name).removesuffix("*") + leaf for name, leaf in product(names, leaves)]
