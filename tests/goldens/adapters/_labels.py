"""Prompts, ids and label masks through our processor, written as the originals write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from omniform.data.document import Document, Media, Segment, Text
from omniform.data.processor import Processor, Sample
from omniform.prompt import Prompt
from omniform.spec import System

IMAGE, IGNORED = -200, -100
ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}


def document(turns: Sequence[tuple[str, str]], mark: str = "<image>") -> Document:
    """A conversation in which `mark` stands for a picture."""
    segments: list[Segment] = []
    for speaker, words in turns:
        first, *rest = words.split(mark)
        role: Any = ROLES[speaker]
        segments += [Text(first, role)] if first or not rest else []
        for text in rest:
            segments.append(Media("image", Image.new("RGB", (24, 24)), role))
            segments += [Text(text, role)] if text else []
    return Document(tuple(segments))


def prompt_of(document: Document, prompt: Prompt, mark: str = "<image>") -> str:
    """The prompt as one string."""
    return "".join(mark if p.media is not None else p.text for p in prompt.render(document.turns()))


def ids_and_labels(
    system: System, tokenizer: Any, document: Document, prompt: Prompt | None = None
) -> tuple[list[int], list[int]]:
    """Ids with one placeholder for each medium, and labels."""
    return as_originals(Processor(system, tokenizer).sample(document, prompt=prompt))


def as_originals(sample: Sample) -> tuple[list[int], list[int]]:
    """Media rows shrink to one placeholder; what is not learned is ignored."""
    media = {int(at): IMAGE for item in sample.media for at in item.at[:1]}
    inside = {int(at) for item in sample.media for at in item.at[1:]}
    kept = [i for i in range(len(sample)) if i not in inside]
    ids = [media.get(i, int(sample.ids[i])) for i in kept]
    return ids, [number if sample.learn[i] else IGNORED for i, number in zip(kept, ids, strict=True)]
