"""Stamp "generate": every output comes out, the same under one seed, and the same alone as in a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from omniform.data.datasets import open_dataset
from omniform.data.document import Document, Media, Segment
from omniform.data.media import frames_of
from omniform.data.sound import samples_of
from omniform.inference.engine import Engine
from omniform.inference.rows import Answer
from omniform.inference.sampling import GenerationConfig
from omniform.spec import System
from omniform.training.setup import set_up
from omniform.verify.check import Context, Failed
from omniform.verify.small import data_of, small_recipe

QUESTIONS, TOKENS = 6, 12
CLOSE, SEEN = 1e-4, 0.01
"""How far log-probabilities, and pixels or samples of full scale 1, of a batch and alone may be apart."""


def check(system: System, context: Context) -> str:
    """Answer some questions about several pictures, with random weights at `tiny` size.

    Raises:
        Failed: an output is missing, or answers differ between runs, or between a batch and alone, or not at all.
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
        if len({answer.log_probs for answer in batched}) == 1:
            raise Failed(f"{name}: all answers are one, whatever is asked")
        _same(f"{name}, a second time", documents, batched, engine.generate(documents, config), exact=True)
        alone = [engine.generate([document], config)[0] for document in documents]
        _same(f"{name}, alone", documents, batched, alone, exact=False)
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


def _same(what: str, documents: list[Document], first: list[Answer], second: list[Answer], *, exact: bool) -> None:
    """Refuse answers that differ: in tokens, in what the model thought of them, in media.

    Args:
        exact: whether nothing at all may differ; otherwise rounding may.
    """
    for document, a, b in zip(documents, first, second, strict=True):
        who = f"{document.id}, {what}"
        if a.tokens != b.tokens:
            raise Failed(f"{who}: tokens {list(a.tokens)} first, {list(b.tokens)} then")
        apart = max(abs(x - y) for x, y in zip(a.log_probs, b.log_probs, strict=True))
        if apart > (0.0 if exact else CLOSE):
            raise Failed(f"{who}: log-probabilities of the same tokens are up to {apart:.1e} apart")
        for one, other in zip(_values(a), _values(b), strict=True):
            if one.shape != other.shape or np.abs(one - other).max() > (0.0 if exact else SEEN):
                raise Failed(f"{who}: a medium of {one.shape} and one of {other.shape} that differ")


def _values(answer: Answer) -> list[npt.NDArray[np.float32]]:
    """What the media of an answer show or sound like, full scale at 1.

    Raises:
        MediaError: one of them is not whole.
    """
    media = [segment for segment in answer.segments if isinstance(segment, Media)]
    return [
        samples_of(m)[0] if m.modality == "audio" else np.stack([np.asarray(f, np.float32) / 255 for f in frames_of(m)])
        for m in media
    ]


def _said(answers: list[Answer], tokens: int) -> set[str]:
    """Modalities of the answers' segments; every answer is as long as was asked for."""
    if any(len(answer.tokens) != tokens for answer in answers):
        raise Failed(f"answers have {[len(a.tokens) for a in answers]} tokens, asked for {tokens}")
    return {_modality(segment) for answer in answers for segment in answer.segments}


def _modality(segment: Segment) -> str:
    return segment.modality if isinstance(segment, Media) else "text"
