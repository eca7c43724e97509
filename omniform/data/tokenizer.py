"""Text tokenizers: what the processor needs of one, and where it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from omniform.prompt import Piece

Offsets = Sequence[tuple[int, int]]


class Tokenizer(Protocol):
    """Text <-> ids, with the characters each id covers."""

    bos_id: int | None
    eos_id: int | None

    @property
    def size(self) -> int:
        """Number of ids."""
        ...

    def encode(self, text: str) -> tuple[list[int], Offsets]:
        """Ids without begin or end tokens, and (start, stop) characters of each; special tokens are recognised."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out."""
        ...

    def id_of(self, token: str) -> int:
        """Id of one token.

        Raises:
            LookupError: the vocabulary does not hold it.
        """
        ...

    def ids_of(self, tokens: Sequence[str]) -> list[int]:
        """Ids of entries of the vocabulary.

        Raises:
            LookupError: it lacks some.
        """
        ...

    def like(self, pattern: str) -> list[int]:
        """Ids of the entries of the vocabulary that match a pattern as a whole."""
        ...


class HfTokenizer:
    """A fast transformers tokenizer behind the `Tokenizer` protocol."""

    def __init__(self, inner: Any) -> None:
        if not inner.is_fast:
            raise ValueError(
                f"{type(inner).__name__} gives no character offsets, which label masks need; use the fast tokenizer"
            )
        self.inner = inner
        self.bos_id: int | None = inner.bos_token_id
        self.eos_id: int | None = inner.eos_token_id

    @property
    def size(self) -> int:
        return len(self.inner)

    def encode(self, text: str) -> tuple[list[int], Offsets]:
        out = self.inner(text, add_special_tokens=False, return_offsets_mapping=True)
        return out["input_ids"], out["offset_mapping"]

    def decode(self, ids: Sequence[int]) -> str:
        return self.inner.decode(ids, skip_special_tokens=True)

    def id_of(self, token: str) -> int:
        known = self.inner.get_vocab()
        if token in known:
            return known[token]
        ids, _ = self.encode(token)
        if len(ids) != 1:
            raise LookupError(f"{token!r} is not one token of this vocabulary of {self.size} (it gives {len(ids)})")
        return ids[0]

    def ids_of(self, tokens: Sequence[str]) -> list[int]:
        known = self.inner.get_vocab()
        missing = [token for token in tokens if token not in known]
        if missing:
            raise LookupError(
                f"{len(missing)} of {len(tokens)} tokens are not in this vocabulary of {self.size}, such as "
                f"{missing[0]!r}; add the system's tokens (System.added_tokens) to the tokenizer"
            )
        return [known[token] for token in tokens]

    def like(self, pattern: str) -> list[int]:
        matches = re.compile(pattern).fullmatch
        return sorted(i for token, i in self.inner.get_vocab().items() if matches(token))

    def add_special(self, tokens: Iterable[str]) -> int:
        """Add special tokens that are not there yet; how many were new."""
        return self.inner.add_special_tokens({"additional_special_tokens": list(tokens)})

    def save(self, folder: Path) -> None:
        self.inner.save_pretrained(folder)


def learned_tokens(offsets: Offsets, pieces: Sequence[Piece]) -> list[bool]:
    """Whether each token covers a character of a learned piece; tokens that cover none are not learned."""
    learned = np.repeat([p.learn for p in pieces], [len(p.text) for p in pieces])
    before = np.concatenate([[0], np.cumsum(learned)])
    return [bool(before[stop] > before[start]) for start, stop in offsets]


def open_tokenizer(path_or_hub_id: str, gguf_file: str | None = None) -> HfTokenizer:
    """A released tokenizer from a directory, a hub id, or a GGUF file; never runs remote code."""
    extra = {"gguf_file": gguf_file} if gguf_file else {}
    return HfTokenizer(AutoTokenizer.from_pretrained(path_or_hub_id, trust_remote_code=False, **extra))


def train_tokenizer(texts: Iterable[str], special: Sequence[str] = (), size: int = 512) -> HfTokenizer:
    """A byte-level BPE tokenizer learned from texts, for models that start from nothing.

    Words keep their leading space; every byte can be written, so nothing is unknown.
    """
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "</s>", "<pad>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return HfTokenizer(fast)
