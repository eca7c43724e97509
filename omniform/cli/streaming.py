"""Prints an answer while it is made."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omniform.data.document import Segment
    from omniform.inference.rows import Answer


def say(stream: Generator[Segment, None, Answer], *, quiet: bool = False) -> Answer:
    """Print segments as they come and end the line; gives the whole answer."""
    from omniform.data.document import Text

    while True:
        try:
            segment = next(stream)
        except StopIteration as end:
            if not quiet:
                print(flush=True)
            return end.value
        if not quiet:
            words = segment.text if isinstance(segment, Text) else f"[{segment.modality}]"
            print(words, end="", flush=True)
