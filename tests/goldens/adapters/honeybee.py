"""Honeybee: whole models with either abstractor, and sequences written by their text alone."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from omniform import index
from omniform.data.document import Document, Media, Segment, Text
from omniform.data.processor import Processor, Sample
from omniform.spec import System

from ..golden import Golden
from . import _family, _llava
from ._load import build

HABITS = _llava.Habits(inline=-1, text_rows_take_one=False)
IMAGE, IGNORED, PAD = -1, -100, 0
CAPTION = "[NO_PROMPT] <image> "
SPEAKERS = re.compile(r"(\nHuman: |\nAI: |<image>)")


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        return whole(golden)
    return sequences(golden.data) if "prompt" in golden.data["cases"][0] else _family.pictures(golden)


def whole(golden: Golden) -> dict[str, Tensor]:
    names = {"vision": "vision_config", "projector": "projector_config", "llm": "text_config"}
    system = index.release(golden.slug, {names[part]: value for part, value in golden.config.items()})
    traced = _llava.trace(golden, build(system, golden.params), HABITS)
    found = _llava.results(golden, traced)
    # the original also learns a label at a padded place, when a real position comes before it
    predicted, labels = found["logits"][:, :-1].flatten(0, 1), golden.inputs["labels"][:, 1:].flatten()
    return {
        **found,
        "vision_features": found["encoder_features"],
        "visual_embeds": found["connector"],
        "loss": F.cross_entropy(predicted, labels, ignore_index=IGNORED).reshape(1),
    }


# --- sequences ---------------------------------------------------------------------------------------------------


class Characters:
    """One id for each character, 3 + its code modulo 90; the end token is cut out first."""

    bos_id: int | None = 1
    eos_id: int | None = 2
    size = 93

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        marks = list(re.finditer(r"</s>|.", text, re.DOTALL))
        return [2 if m[0] == "</s>" else 3 + ord(m[0]) % 90 for m in marks], [m.span() for m in marks]


def sequences(data: dict[str, Any]) -> dict[str, Any]:
    """Cases, and the batch of the first and the fifth."""
    system = index.system("honeybee").shrunk("tiny")
    found, rows = {}, []
    for number, case in enumerate(data["cases"]):
        ids, labels = encoded(system, case["prompt"], case["max_length"], case["no_eos"])
        found |= {f"cases/{number}/input_ids": ids, f"cases/{number}/labels": labels}
        rows.append((ids, labels))
    if "batch" in data:
        found |= {f"batch/{name}": value for name, value in batch([rows[0], rows[4]]).items()}
    return found


def encoded(system: System, text: str, longest: int | None, no_eos: bool) -> tuple[list[int], list[int]]:
    """Ids and labels of a prompt, cut as the original cuts: a picture that does not fit ends the sequence."""
    caption = system.stages[0].prompt if text.startswith(CAPTION) else None
    document = _captioned(text.removeprefix(CAPTION)) if caption else _spoken(text)
    asked = text.endswith("AI: ")
    sample = Processor(system, Characters()).sample(document, prompt=caption, answer_next=asked)  # type: ignore[arg-type]
    ids, labels = _as_original(sample)
    if no_eos and ids[-1] == 2:
        ids, labels = ids[:-1], labels[:-1]
    if longest is None:
        return ids, labels
    ends = [int(item.at[0]) for item in sample.media if item.at[-1] > longest and not caption]
    kept = min([longest + 1, *ends])
    return ids[:kept], labels[:kept]


def _as_original(sample: Sample) -> tuple[list[int], list[int]]:
    ids = torch.tensor(sample.ids)
    for item in sample.media:
        ids[torch.tensor(item.at)] = IMAGE
    return ids.tolist(), ids.where(torch.tensor(sample.learn), IGNORED).tolist()


def _captioned(words: str) -> Document:
    return Document((_picture(), Text(words, "assistant")))


def _spoken(text: str) -> Document:
    """The conversation that a prompt writes down."""
    system, *parts = SPEAKERS.split(text)
    segments: list[Segment] = [Text(system, "system")] if system else []
    role: Any = "user"
    for part in parts:
        if part in ("\nHuman: ", "\nAI: "):
            role = "assistant" if part == "\nAI: " else "user"
        elif part:
            segments.append(_picture() if part == "<image>" else Text(part, role))
    return Document(tuple(segments))


def _picture() -> Media:
    return Media("image", Image.new("RGB", (24, 24)))


def batch(rows: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """Rows padded on the right."""
    longest = max(len(ids) for ids, _ in rows)
    gaps = [longest - len(ids) for ids, _ in rows]
    return {
        "input_ids": [ids + [PAD] * gap for (ids, _), gap in zip(rows, gaps, strict=True)],
        "labels": [labels + [IGNORED] * gap for (_, labels), gap in zip(rows, gaps, strict=True)],
        "attention_mask": [[1] * (longest - gap) + [0] * gap for gap in gaps],
        "seq_length": [longest - gap for gap in gaps],
    }
