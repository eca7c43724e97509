"""Goldens of prompts and label masks: conversations through our templates, processor and toy tokenizers.

A golden says in its notes which ids its toy tokenizer gives to special tokens; what it says of the original's names of
templates is looked up in the adapter's table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from omniform import index
from omniform.prompt import Prompt, Turn
from omniform.spec import System

from ..runner import GIVEN
from . import _labels

MARK = "<image>"
PREFIX, BLANK = "\u2581", "\u0120"
"""What begins a piece that follows a blank: in SentencePiece, in byte-level BPE."""


def run(data: Mapping[str, Any], slug: str, prompts: Mapping[str, Prompt], mark: str = MARK) -> dict[str, Any]:
    """Results of a prompt or label golden.

    Args:
        prompts: the original's name of each template -> ours.
        mark: what stands for a picture in the original's strings.
    """
    if "toy_vocab" in data:
        return labels(data, index.system(slug), prompts)
    turns = data["turns"]
    return {f"prompts/{name}": prompt_of(turns, prompts.get(name), mark) for name in data["prompts"]}


# --- prompts -----------------------------------------------------------------------------------------------------


def prompt_of(turns: Sequence[Sequence[str | None]], prompt: Prompt | None, mark: str = MARK) -> str | None:
    """The string of (question, answer) turns, a picture before the first question; an open answer ends it."""
    if prompt is None:
        return None
    said: list[Turn] = []
    for number, (question, answer) in enumerate(turns):
        words = (question or "").replace(mark, "").strip()
        said.append(Turn("user", (("image", 0), words) if number == 0 else (words,)))
        said += [Turn("assistant", (answer,))] if answer is not None else []
    pieces = prompt.render(said, answer_next=said[-1].role == "user")
    return "".join(mark if p.media is not None else p.text for p in pieces)


# --- labels ------------------------------------------------------------------------------------------------------


def labels(data: Mapping[str, Any], system: System, prompts: Mapping[str, Prompt]) -> dict[str, Any]:
    """Ids and labels of every conversation of a golden."""
    small, found = system.shrunk("tiny"), {}
    masks = [name for name in re.findall(r"preprocess_(\w+)", data.get("source", "")) if name in prompts]
    for path, said, case in conversations(data):
        name = said if said in prompts or not masks else masks[0]
        tokenizer = Toy(data["toy_vocab"], data.get("notes", ""))
        document = _labels.document([_pair(turn) for turn in case["conversation"]])
        prompt = _chosen(name, case, prompts, system.prompt, document)
        # whether a begin token comes first is the tokenizer's matter in the originals
        prompt = replace(prompt, bos=case["input_ids"][0] == tokenizer.bos_id)
        ids, learned = _labels.ids_and_labels(small, tokenizer, document, prompt)
        found |= {f"{path}input_ids": ids, f"{path}labels": learned, f"{path}conversation": GIVEN}
        if "prompt" in case:
            found[f"{path}prompt"] = _labels.prompt_of(document, prompt)
    return found


def conversations(data: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(path, name of the template, case) of everything that holds a conversation."""
    if "conversation" in data:
        yield "", "", data
    for name, value in data.items():
        if isinstance(value, dict) and "conversation" in value:
            yield f"{name}/", name, value
        for number, case in enumerate(value if isinstance(value, list) else ()):
            if isinstance(case, dict) and "conversation" in case:
                yield f"{name}/{number}/", case.get("template", name), case


def _pair(turn: Any) -> tuple[str, str]:
    return (turn["from"], turn["value"]) if isinstance(turn, dict) else (turn[0], turn[1])


def _chosen(
    name: str, case: Mapping[str, Any], prompts: Mapping[str, Prompt], default: Prompt, document: Any
) -> Prompt:
    """The template that gives a case's string, else the one it names, else the system's own."""
    same = (p for p in prompts.values() if _labels.prompt_of(document, p) == case.get("prompt"))
    return next(same, prompts.get(name, default))


class Toy:
    """A toy tokenizer: special tokens are cut out first, the rest is split greedily, the longest piece first.

    With pieces of SentencePiece's prefix it behaves as LLaMA's slow tokenizer: every text between special tokens is
    prefixed once. With byte-level BPE's, blanks are written so. Without either, blanks that no piece holds are skipped.
    """

    def __init__(self, vocab: Mapping[str, int], notes: str = "") -> None:
        self.prefixed = any(piece.startswith(PREFIX) for piece in vocab)
        self.blank = PREFIX if self.prefixed else BLANK if any(p.startswith(BLANK) for p in vocab) else " "
        said = {token: int(number) for number, token in re.findall(r"(\d+) (<[^\s>]+>)", notes)}
        said |= {token: int(number) for token, number in re.findall(r"(<[^\s>]+>) (\d+)", notes) if token not in said}
        for pattern, token in ((r"(\d+) newline", "\n"), (r"(\d+) (?:double newline|\\n\\n)", "\n\n")):
            line = re.search(pattern, notes)
            said |= {token: int(line[1])} if line else {}
        said.pop(MARK, None)
        begin = re.search(r"\bbos (\d+)", notes)
        self.bos_id: int | None = int(begin[1]) if begin else None
        self.eos_id: int | None = None
        self.vocab = {**vocab, **said}
        self.size = max(self.vocab.values()) + 1
        self.special = [t for t in sorted(self.vocab, key=len, reverse=True) if re.fullmatch(r"<[^\s>]+>", t)]
        self.pieces = sorted(self.vocab, key=len, reverse=True)

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        at = 0
        for part in re.split("(" + "|".join(map(re.escape, self.special)) + ")", text) if self.special else [text]:
            found = [(self.vocab[part], 0, len(part))] if part in self.special else self._split(part)
            ids += [number for number, _, _ in found]
            offsets += [(at + start, at + stop) for _, start, stop in found]
            at += len(part)
        return ids, offsets

    def _split(self, text: str) -> list[tuple[int, int, int]]:
        extra = len(PREFIX) if self.prefixed and text else 0
        marked = PREFIX * extra + text.replace(" ", self.blank)
        at, found = 0, []
        while at < len(marked):
            piece = next((p for p in self.pieces if marked.startswith(p, at)), None)
            if piece is None and marked[at] != " ":
                raise ValueError(f"the toy vocabulary has no piece for {marked[at:]!r}")
            if piece is not None:
                found.append((self.vocab[piece], max(at - extra, 0), at - extra + len(piece)))
            at += len(piece or " ")
        return found

    def decode(self, ids: Sequence[int]) -> str:
        names = {number: piece for piece, number in self.vocab.items()}
        return "".join(names.get(i, "") for i in ids).replace(self.blank, " ")

    def id_of(self, token: str) -> int:
        return self.vocab.get(token, -1)  # no id of a text
