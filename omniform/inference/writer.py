"""Tokens -> text as it becomes certain: whole characters only, and never a part of what ends an answer."""

from __future__ import annotations

from collections.abc import Sequence

from omniform.data.tokenizer import Tokenizer

INCOMPLETE = "\ufffd"
"""What tokenizers decode an unfinished multi-byte character to."""


class TextWriter:
    """Writes one answer.

    Text is decoded in a window that starts one write back, so its cost does not grow with the answer, and tokenizers
    that treat the first token of a text differently see a token before the new ones.

    Args:
        stops: strings that end the answer; they and what follows are never written.
        opening: what the prompt puts before an answer's words; left out when the answer begins with it.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), opening: str = "") -> None:
        self.tokenizer = tokenizer
        self.stops = tuple(stops)
        self.opening = opening
        self.stopped = False
        self._window: list[int] = []  # ids decoded together
        self._settled = 0  # ids of the window whose characters are all taken
        self._taken = 0  # characters of the window already taken
        self._held = ""  # taken, but not written: it may be the beginning of a stop string

    def write(self, ids: Sequence[int]) -> str:
        """The text that these further ids make certain; empty once stopped."""
        self._window += ids
        return self._release(self._decoded(final=False))

    def close(self) -> str:
        """What was held back, when no more ids come."""
        rest = self._release(self._decoded(final=True))
        rest += "" if self.stopped else self._held
        self._held = ""
        return rest

    def fresh(self) -> TextWriter:
        """A writer for words that come after something else."""
        return TextWriter(self.tokenizer, self.stops)

    def _decoded(self, final: bool) -> str:
        """Characters of the window that are new and complete."""
        text = self.tokenizer.decode(self._window)
        whole = text if final else text.rstrip(INCOMPLETE)
        new, self._taken = whole[self._taken :], max(self._taken, len(whole))
        if len(whole) == len(text) and len(self._window) > self._settled:
            self._window = self._window[self._settled :]
            self._settled, self._taken = len(self._window), len(self.tokenizer.decode(self._window))
        return new

    def _release(self, text: str) -> str:
        """Text that can no longer turn out to be an opening or a stop string."""
        if self.stopped:
            return ""
        self._held += text
        if self.opening:
            if len(self._held) < len(self.opening) and self.opening.startswith(self._held):
                return ""
            self._held = self._held.removeprefix(self.opening)
            self.opening = ""
        found = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        self.stopped = bool(found)
        safe = min(found) if found else len(self._held) - self._undecided()
        out, self._held = self._held[:safe], self._held[safe:]
        return out

    def _undecided(self) -> int:
        """Length of the longest end of the held text that a stop string begins with."""
        longest = min(len(self._held), max(map(len, self.stops), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self.stops)), 0)
