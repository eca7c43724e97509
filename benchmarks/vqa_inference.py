"""Answering VQA: questions per second here and with transformers' `generate`, and single-stream decoding.

Same weights, same questions, same process. Answers are compared before anything is timed.

    python -m benchmarks.vqa_inference --size nano
    python -m benchmarks.vqa_inference --size smollm2 --questions 64
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

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
from omniform.inference.engine import Engine
from omniform.inference.sampling import GenerationConfig

NEW_TOKENS = 2
"""A word and the end token, which is what an answer of easy-VQA takes."""
PEER_BATCHES = (16, 32, 64)
"""Questions that the peer reads together: the size with which it is fastest is the one it is measured with."""
STREAM_TOKENS = 128


def ours(pair: Pair, documents: Sequence[Document]) -> Callable[[], list[list[int]]]:
    engine = Engine(pair.ours, pair.processor)
    config = GenerationConfig(max_new_tokens=NEW_TOKENS)
    return lambda: [list(a.tokens) for a in engine.generate(documents, config)]


def peer(pair: Pair, documents: Sequence[Document], batch: int) -> Callable[[], list[list[int]]]:
    data = PeerData(pair)
    engine = Engine(pair.ours, pair.processor)  # makes the prompts: both sides read the same ids
    pair.peer.eval()

    @torch.inference_mode()
    def answer() -> list[list[int]]:
        answers = []
        for start in range(0, len(documents), batch):
            samples = [engine.sample(d) for d in documents[start : start + batch]]
            inputs = data.collate(samples, left=True, labels=False)
            out = pair.peer.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
            answers += out[:, inputs["input_ids"].shape[1] :].tolist()
        return answers

    return answer


def fastest_batch(pair: Pair, documents: Sequence[Document]) -> int:
    """The batch with which the peer is fastest here."""
    peer(pair, documents, PEER_BATCHES[0])()  # warm-up

    def seconds(batch: int) -> float:
        call, start = peer(pair, documents, batch), time.perf_counter()
        call()
        return time.perf_counter() - start

    return min(PEER_BATCHES, key=seconds)


def stream_ours(pair: Pair, document: Document) -> Callable[[], None]:
    engine = Engine(pair.ours, pair.processor)
    config = GenerationConfig(max_new_tokens=STREAM_TOKENS, min_new_tokens=STREAM_TOKENS)

    def run() -> None:
        for _ in engine.stream(document, config):
            pass

    return run


def stream_peer(pair: Pair, document: Document) -> Callable[[], None]:
    data = PeerData(pair)
    engine = Engine(pair.ours, pair.processor)

    @torch.inference_mode()
    def run() -> None:
        inputs = data.collate([engine.sample(document)], left=True, labels=False)
        pair.peer.generate(**inputs, max_new_tokens=STREAM_TOKENS, min_new_tokens=STREAM_TOKENS, do_sample=False)

    return run


def same_answers(mine: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> int:
    """Answers that agree in every token up to the end of ours."""
    return sum(list(a) == list(b[: len(a)]) for a, b in zip(mine, theirs, strict=True))


def main() -> None:
    args = arguments(default_questions=512)
    pair = build(args.size)
    documents = questions(images=args.questions // 8 + 2)[: args.questions]
    if args.only == "ours":
        measure_memory(pair, args.only, lambda: ours(pair, documents))
        return
    batch = args.peer_batch or fastest_batch(pair, documents)
    if args.only == "peer":
        measure_memory(pair, args.only, lambda: peer(pair, documents, batch))
        return
    print(f"questions that the peer reads together: {batch}")
    args.peer_batch = batch
    calls = ours(pair, documents), peer(pair, documents, batch)
    agree = same_answers(*(call() for call in calls))
    print(f"answers that agree: {agree} of {len(documents)}")
    report(f"answering, {args.size}", "questions/s", len(documents), alternate(*calls, rounds=args.rounds))
    streams = stream_ours(pair, documents[0]), stream_peer(pair, documents[0])
    report(f"single stream, {args.size}", "tokens/s", STREAM_TOKENS, alternate(*streams, rounds=args.rounds))
    peak_memory("benchmarks.vqa_inference", args)


if __name__ == "__main__":
    main()
