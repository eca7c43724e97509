"""Many documents -> batches that share media and stay within a number of positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from omniform.data.document import Document
from omniform.data.packing import likeness
from omniform.data.processor import Sample


def batches(
    documents: Sequence[Document], sample: Callable[[int], Sample], positions: int, *, trees: bool = True
) -> Iterator[list[tuple[int, Sample]]]:
    """Numbered samples, those about the same media next to each other, and of these those that go on alike.

    Args:
        sample: makes the sample of a document; called when its batch is made.
        positions: of one batch at most, shared ones counted once; a longer sample is a batch of its own.
        trees: whether samples about the same media share positions.
    """
    families: dict[object, list[int]] = {}
    for number, document in enumerate(documents):
        families.setdefault(tuple(m.key for m in document.media) or number, []).append(number)
    batch: list[tuple[int, Sample]] = []
    length = 0
    for members in families.values():
        shared = 0
        for number in members:
            one = sample(number)
            if batch and length + len(one) - shared > positions:
                yield _sorted(batch)
                batch, length, shared = [], 0, 0
            batch.append((number, one))
            length += len(one) - shared
            shared = one.media[-1].last + 1 if trees and one.media else 0
    if batch:
        yield _sorted(batch)


def _sorted(batch: Sequence[tuple[int, Sample]]) -> list[tuple[int, Sample]]:
    return sorted(batch, key=lambda numbered: likeness(numbered[1]))
