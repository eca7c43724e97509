"""Keys and values of positions already read, in buffers with room to grow."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, seen as (blocks, kv_heads, columns, head_dim).

    transformers' own layer copies everything for each new position; this one writes into spare columns, and makes
    more when they run out.

    Attributes:
        rooms: the whole buffers of keys and of values, (kv_heads, blocks, capacity, head_dim).
    """

    keys: Tensor
    values: Tensor
    rooms: tuple[Tensor, Tensor]

    @property
    def columns(self) -> int:
        return self.keys.shape[2]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append columns; all keys and values."""
        new = key_states.transpose(0, 1), value_states.transpose(0, 1)
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.show(new, new[0].shape[2])
            return self.keys, self.values
        start = self.columns
        stop = start + new[0].shape[2]
        if stop > self.rooms[0].shape[2]:
            self.rooms = _larger(self.rooms[0], start, stop), _larger(self.rooms[1], start, stop)
        for room, states in zip(self.rooms, new, strict=True):
            room[:, :, start:stop] = states
        self.show(self.rooms, stop)
        return self.keys, self.values

    def show(self, rooms: tuple[Tensor, Tensor], columns: int) -> None:
        """Use these buffers, of which the first `columns` are written."""
        self.rooms = rooms
        self.keys, self.values = (room.transpose(0, 1)[:, :, :columns] for room in rooms)


def _larger(room: Tensor, used: int, needed: int) -> Tensor:
    """The same buffer with at least `needed` columns and some to spare."""
    heads, blocks, _, dim = room.shape
    larger = room.new_empty(heads, blocks, max(needed, used + used // 4 + 32), dim)
    larger[:, :, :used] = room[:, :, :used]
    return larger


class KeyValues(DynamicCache):
    """All layers; they come as they are first written."""

    layers: Any  # list[GrowingLayer]; the base class allows other kinds

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = GrowingLayer

    @property
    def like(self) -> Tensor:
        """Some keys: their device and type are the cache's."""
        return self.layers[0].keys

    @property
    def capacity(self) -> int:
        """Columns of each block, spare ones included."""
        return self.layers[0].rooms[0].shape[2]

    @property
    def columns(self) -> int:
        """Columns that every layer holds: a step that was interrupted may have reached some layers only."""
        return min(layer.columns for layer in self.layers)

    def keep(self, columns: int) -> bool:
        """Forget all but the first `columns`, the rest is spare again; False where that leaves nothing."""
        for layer in self.layers:
            layer.show(layer.rooms, columns)
        return columns > 0

    def fold(self, cells: Int[Tensor, "blocks capacity"], columns: int) -> KeyValues:
        """A cache of other blocks, each cell of which is a cell (block * capacity + column) of this one.

        The first `columns` of each block are written.
        """
        cells = cells.to(self.like.device)
        other = KeyValues()
        for layer in self.layers:
            keys, values = (
                room.flatten(1, 2).index_select(1, cells.flatten()).unflatten(1, cells.shape) for room in layer.rooms
            )
            folded = GrowingLayer()
            folded.dtype, folded.device, folded.is_initialized = layer.dtype, layer.device, True
            folded.show((keys, values), columns)
            other.layers.append(folded)
        return other
