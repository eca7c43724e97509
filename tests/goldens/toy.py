"""Toy tokenizers of the label goldens, behind the `Tokenizer` protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


class ToyLlama:
    """SentencePiece as LLaMA's slow tokenizer behaves: the end token is cut out first, and every text between is
    prefixed with one "\u2581" and split greedily, the longest piece first.
    """

    bos_id: int | None = 1
    eos_id: int | None = 2

    def __init__(self, vocab: Mapping[str, int]) -> None:
        self.vocab = dict(vocab)
        self.pieces = sorted(vocab, key=len, reverse=True)
        self.size = max(vocab.values()) + 1

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        at = 0
        for part in re.split(r"(</s>)", text):
            for number, start, stop in [(2, 0, 4)] if part == "</s>" else self._segment(part):
                ids.append(number)
                offsets.append((at + start, at + stop))
            at += len(part)
        return ids, offsets

    def _segment(self, text: str) -> list[tuple[int, int, int]]:
        marked, at, found = "\u2581" * bool(text) + text.replace(" ", "\u2581"), 0, []
        while at < len(marked):
            piece = next((p for p in self.pieces if marked.startswith(p, at)), None)
            if piece is None:
                raise ValueError(f"the toy vocabulary has no piece for {marked[at:]!r}")
            found.append((self.vocab[piece], max(at - 1, 0), at - 1 + len(piece)))
            at += len(piece)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        names = {number: piece for piece, number in self.vocab.items()}
        return "".join(names.get(i, "") for i in ids).replace("\u2581", " ").strip()

    def id_of(self, token: str) -> int:
        return {**self.vocab, "<s>": 1, "</s>": 2}[token]


class ToyQwen:
    """Words and punctuation by the longest match, blanks skipped; no begin token."""

    bos_id: int | None = None
    eos_id: int | None = 901

    def __init__(self, vocab: Mapping[str, int]) -> None:
        self.vocab = {**vocab, "<|im_start|>": 900, "<|im_end|>": 901, "\n": 198}
        pieces = sorted(self.vocab, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, pieces)) + "| ")
        self.size = max(self.vocab.values()) + 1

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found, at = [], 0
        while at < len(text):
            piece = self.pattern.match(text, at)
            if piece is None:
                raise ValueError(f"the toy vocabulary has no piece for {text[at:]!r}")
            found += [piece] if piece.group() != " " else []
            at = piece.end()
        return [self.vocab[p.group()] for p in found], [p.span() for p in found]

    def decode(self, ids: Sequence[int]) -> str:
        names = {number: piece for piece, number in self.vocab.items()}
        return " ".join(names.get(i, "") for i in ids)

    def id_of(self, token: str) -> int:
        return self.vocab[token]
