"""What a backbone keeps of positions already read, and how rows go on from it: keys and values, or a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor

from omniform.batch import Batch, Fused
from omniform.frozen import FrozenMap
from omniform.inference.cache import KeyValues
from omniform.inference.decoding import Decoding, Prefill
from omniform.inference.states import StateDecoding, StatePrefill
from omniform.parts import Backbone
from omniform.scan import States

Cache: TypeAlias = KeyValues | States
"""What is kept of the rows of a batch; the backbone writes it."""
Read: TypeAlias = Prefill | StatePrefill
"""Prompts that were read."""
Going: TypeAlias = Decoding | StateDecoding
"""Rows that go on together."""


class Memory(NamedTuple):
    """One kind of memory: its empty cache, and prompts that were read into it."""

    cache: type[Any]
    read: type[Any]

    def of(self, hidden: Float[Tensor, "n dim"], cache: Cache, batch: Batch, fused: Fused | None) -> Read:
        """The documents of a batch, and what fusions knew of it."""
        return self.read.of(hidden, cache, batch, fused)

    def alone(
        self, hidden: Float[Tensor, "1 dim"], cache: Cache, length: int, batch: Batch, fused: Fused | None
    ) -> Read:
        """The only row of a cache, `length` positions long, of which a batch holds the last."""
        return self.read.alone(hidden, cache, length, batch, fused)


KINDS: Mapping[str, Memory] = FrozenMap(keys=Memory(KeyValues, Prefill), state=Memory(States, StatePrefill))


def memory_of(backbone: Backbone) -> Memory:
    return KINDS[backbone.memory]
