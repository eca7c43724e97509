"""Training on VQA: questions per second here and with transformers' LLaVA class and a padded collator.

Same weights, same questions, same optimizer, same process; the language model and the connector learn, the encoder is
frozen (LLaVA-1.5's second stage). Losses of the first step are compared before anything is timed.

    python -m benchmarks.vqa_training --size nano
    python -m benchmarks.vqa_training --size smollm2 --questions 64
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import (
    Pair,
    PeerData,
    alternate,
    arguments,
    build,
    measure_memory,
    peak_memory,
    questions,
    report,
)
from omniform.data.document import Document
from omniform.data.loader import ViewCache, read_views
from omniform.data.packing import likeness, pack
from omniform.data.processor import MediaItem


def freeze(pair: Pair) -> None:
    pair.ours.inputs["image"].encoder.requires_grad_(False)
    pair.peer.model.vision_tower.requires_grad_(False)


def ours(pair: Pair, documents: Sequence[Document]) -> Callable[[], float]:
    """One optimizer step on all documents, from documents to updated weights."""
    cache = ViewCache()

    def load(item: MediaItem) -> Tensor:
        return cache.get((item.media.key, item.plan), lambda: read_views(item, pair.ours.system))

    optimizer = _optimizer(pair.ours)
    pair.ours.train()

    def step() -> float:
        samples = [pair.processor.sample(d) for d in documents]
        batch = pack(sorted(samples, key=likeness), load)
        loss = pair.ours(batch)["text"].mean
        return _learn(loss, optimizer)

    return step


def peer(pair: Pair, documents: Sequence[Document]) -> Callable[[], float]:
    data = PeerData(pair)
    optimizer = _optimizer(pair.peer)
    pair.peer.train()

    def step() -> float:
        samples = [pair.processor.sample(d) for d in documents]
        loss = pair.peer(**data.collate(samples, left=False, labels=True)).loss
        return _learn(loss, optimizer)

    return step


def _optimizer(model: torch.nn.Module) -> Any:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)


def _learn(loss: torch.Tensor, optimizer: Any) -> float:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def main() -> None:
    args = arguments(default_questions=128)
    pair = build(args.size)
    freeze(pair)
    documents = questions(images=args.questions // 8 + 2)[: args.questions]
    sides = {"ours": ours, "peer": peer}
    if args.only:
        measure_memory(pair, args.only, lambda: sides[args.only](pair, documents))
        return
    steps = ours(pair, documents), peer(pair, documents)
    first = [step() for step in steps]
    print(f"loss of the first step: omniform {first[0]:.6f}, transformers {first[1]:.6f}")
    if abs(first[0] - first[1]) > 1e-4 * abs(first[1]):
        raise SystemExit("the losses differ: the two sides do not compute the same thing")
    report(f"training, {args.size}", "questions/s", len(documents), alternate(*steps, rounds=args.rounds))
    peak_memory("benchmarks.vqa_training", args)


if __name__ == "__main__":
    main()
