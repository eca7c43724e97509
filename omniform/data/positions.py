"""Position ids of one document, by the rule of its system (`geometry.Positions`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from omniform.geometry import Block, Mosaic, Plan, Positions, Volume, span

Ids: TypeAlias = npt.NDArray[np.int64]


def position_ids(rule: Positions, length: int, media: Sequence[tuple[Plan, Ids]]) -> tuple[Ids, int]:
    """Position ids of a document, and that of what follows it.

    Args:
        length: positions of the document.
        media: for each medium its plan, and where its rows stand, in order.

    Returns:
        (length,) ids, or (axes, length) where the rule has several axes.
    """
    if rule.media == "running" and all(span(block) == block.positions for _, block in _placed(media)):
        return np.arange(length), length
    ids = np.empty((rule.axes, length), dtype=np.int64)
    done = following = 0
    for start, block in _placed(media):
        offsets, advance = OFFSETS[rule.media](block, rule)
        ids[:, done:start] = following + np.arange(start - done)
        following += start - done
        done = start + block.positions
        ids[:, start:done] = following + offsets
        following += advance
    ids[:, done:] = following + np.arange(length - done)
    return ids if rule.axes > 1 else ids[0], following + length - done


def _placed(media: Sequence[tuple[Plan, Ids]]) -> Iterator[tuple[int, Block]]:
    """Where each block with rows begins."""
    for plan, at in media:
        taken = 0
        for block in plan.blocks:
            if block.positions:
                yield int(at[taken]), block
                taken += block.positions


def map_of(block: Block) -> tuple[int, int, int] | None:
    """(frames, rows, columns) of a block whose rows form a map."""
    if isinstance(block, Volume):
        return block.frames, *block.cell
    if isinstance(block, Mosaic) and not block.newline:
        return 1, *block.size
    return None


def _running(block: Block, rule: Positions) -> tuple[Ids, int]:
    return np.minimum(np.arange(block.positions), span(block) - 1), span(block)


def _map(block: Block, rule: Positions) -> tuple[Ids, int]:
    sides = map_of(block)
    if sides is None:
        return _running(block, rule)
    return np.indices(sides).reshape(3, -1), max(sides if rule.after == "largest" else sides[1:])


OFFSETS: Mapping[str, Callable[[Block, Positions], tuple[Ids, int]]] = {
    "running": _running, "map": _map,
}  # fmt: skip
"""Rule for media -> ids of a block's rows counted from the next id, and by how much they move it."""
