"""Words as the text encoder of a diffusion model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

BEGIN, END = 256, 257


class Words(Protocol):
    """Texts -> ids of one length."""

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "texts positions"]: ...


class Bytes:
    """Bytes between begin and end, filled up with end; what is too long loses its last bytes."""

    def __init__(self, positions: int) -> None:
        self.positions = positions

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "texts positions"]:
        rows = [[BEGIN, *text.encode()[: self.positions - 2]] for text in texts]
        return torch.tensor([[*row, *[END] * (self.positions - len(row))] for row in rows]).view(-1, self.positions)


class Released:
    """The tokenizer of a diffusers directory."""

    def __init__(self, inner: Any, positions: int) -> None:
        self.inner, self.positions = inner, positions

    @staticmethod
    def of(folder: Path, positions: int) -> Released:
        """The tokenizer in the sub-folder "tokenizer"."""
        from transformers import AutoTokenizer

        return Released(AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False), positions)

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "texts positions"]:
        made = self.inner(
            list(texts), padding="max_length", max_length=self.positions, truncation=True, return_tensors="pt"
        )
        return made.input_ids


class Missing:
    """No tokenizer yet."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "texts positions"]:
        raise ValueError(
            f"{self.what} cannot read {texts[0]!r}: its tokenizer lies in the directory of its weights; load them "
            "(`settle`), or declare tokens='bytes' for a text encoder of your own"
        )
