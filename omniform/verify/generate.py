"""Stamp "generate": every output comes out, the same under one seed, and the same alone as in a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from omniform.data.datasets import open_dataset
from omniform.data.document import Document, Media, Segment
from omniform.inference.engine import Engine
from omniform.inference.rows import Answer
from omniform.inference.sampling import GenerationConfig
from omniform.spec import System
from omniform.training.setup import set_up
from omniform.verify.check import Context, Failed
from omniform.verify.small import data_of, small_recipe

QUESTIONS, TOKENS = 6, 12


def check(system: System, context: Context) -> str:
    """Answer some questions about several pictures, with random weights at `tiny` size.

    Raises:
        Failed: an output is missing, or answers differ between runs, or between a batch and alone.
    """
    with TemporaryDirectory(prefix="omniform-") as folder:
        setup = set_up(small_recipe(system, system.stages[-1:], Path(folder)))
    engine = Engine(setup.model, setup.processor)
    documents, media = _questions(system), system.written
    tokens = max(TOKENS, *(len(output.signal) + 2 for output in system.outputs.values()))
    greedy = GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens)
    sampled = replace(greedy, temperature=1.0, seed=7)
    asked = {"greedy": greedy, "sampled": sampled}
    asked |= {f"sampled, {m} first": replace(sampled, first=m) for m in media}
    said: set[str] = set()
    for name, config in asked.items():
        batched = engine.generate(documents, config)
        _same(f"{name}, a second time", documents, batched, engine.generate(documents, config))
        alone = [engine.generate([document], config)[0] for document in documents]
        _same(f"{name}, alone", documents, batched, alone)
        said |= _said(batched, tokens)
    missing = [modality for modality in system.outputs if modality not in {*said, "text"}]
    if missing:
        raise Failed(f"no {', '.join(missing)} came out")
    spoken = f", with {', '.join(media)}" if media else ""
    what = f"{len(documents)} answers of {tokens} tokens{spoken}, greedy and sampled"
    return f"{what}: same twice, same alone and in a batch"


def _questions(system: System) -> list[Document]:
    """Questions about several media, some about the same one."""
    dataset = open_dataset(data_of(system))
    stride = max(1, len(dataset) // QUESTIONS * 2)
    numbers = [n for first in range(0, len(dataset), stride) for n in (first, first + 1)][:QUESTIONS]
    return [dataset[n] for n in numbers]


def _same(what: str, documents: list[Document], first: list[Answer], second: list[Answer]) -> None:
    for document, a, b in zip(documents, first, second, strict=True):
        if a.tokens != b.tokens:
            raise Failed(f"{document.id}, {what}: tokens {list(a.tokens)} first, {list(b.tokens)} then")


def _said(answers: list[Answer], tokens: int) -> set[str]:
    """Modalities of the answers' segments; every answer is as long as was asked for."""
    if any(len(answer.tokens) != tokens for answer in answers):
        raise Failed(f"answers have {[len(a.tokens) for a in answers]} tokens, asked for {tokens}")
    return {_modality(segment) for answer in answers for segment in answer.segments}


def _modality(segment: Segment) -> str:
    return segment.modality if isinstance(segment, Media) else "text"
