"""LLaVA-1.5: whole model, label masks, prompts, pixels."""

from __future__ import annotations

from typing import Any

from omniform import index

from ..golden import Golden
from ..toy import ToyLlama
from . import _labels, _llava, _preprocess, _texts
from .llava import PROMPTS


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        return _llava.run(golden)
    if "turns" in golden.data:
        return _texts.run(golden.data, "llava-1.5", PROMPTS)
    return labels(golden.data) if "toy_vocab" in golden.data else pixels(golden)


def labels(data: dict[str, Any]) -> dict[str, Any]:
    system = index.system("llava-1.5").shrunk("tiny")
    tokenizer = ToyLlama(data["toy_vocab"])
    plain = next(stage.prompt for stage in system.stages if stage.prompt)
    found = {}
    cases = {f"v1/{i}": (case, system.prompt) for i, case in enumerate(data.get("v1", ()))}
    cases |= {"plain": (data["plain"], plain)} if "plain" in data else {}
    for path, (case, prompt) in cases.items():
        document = _labels.document(case["conversation"])
        found[f"{path}/input_ids"], found[f"{path}/labels"] = _labels.ids_and_labels(
            system, tokenizer, document, prompt
        )
        if "prompt" in case:
            found[f"{path}/prompt"] = _labels.prompt_of(document, prompt)
    return found


def pixels(golden: Golden) -> dict[str, Any]:
    system = index.system("llava-1.5")
    encoder = system.continuous("image").encoder
    found = {}
    for path, picture, size, said in _preprocess.cases(golden.data):
        views = _preprocess.normalised(picture, system.plan("image", size), encoder)
        found |= _preprocess.compared(f"{path}/pixel_values", views[0], said["pixel_values"])
    return found
