"""How a conversation becomes one string with holes for media: prompts as data.

A `Prompt` is rendered to `Piece`s. Text pieces between two media are tokenized together, exactly as the original
code bases do, and the learned part is found again by character offsets (`data.processor`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from omniform.frozen import FrozenMap
from omniform.geometry import SpecError

MEDIA, TEXT, CONTENT = "{media}", "{text}", "{content}"


@dataclass(frozen=True)
class Piece:
    """Text to tokenize, or one medium (`media` is its index in the turn list's order of appearance).

    Attributes:
        learn: whether its tokens are predicted in training.
    """

    text: str = ""
    media: int | None = None
    learn: bool = False


@dataclass(frozen=True)
class Turn:
    """One speaker's turn: strings, and media as (modality, running index)."""

    role: Literal["system", "user", "assistant"]
    content: tuple[str | tuple[str, int], ...]
    learn: bool = True


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation template.

    Attributes:
        system: text before the first turn; a document's own system turn replaces `{system}` in `system_turn`.
        system_turn: template of the system text, with `{system}`.
        user: template of a user turn. `{content}` keeps media where they stand; `{media}` and `{text}` separately
            move all media of the turn to where `{media}` is; without `{text}` the user's words are dropped.
        header: what precedes an assistant's words; also what generation starts from.
        answer: template of the assistant's words, with `{text}`; learned as a whole.
        learn_header: whether the header is learned too.
        media: modality -> template of one medium, with `{media}`.
        always_learned: tokens that are predicted wherever they stand, also in user turns.
        bos: whether the tokenizer's begin-of-sequence token comes first.
        stop: strings that end an answer.
    """

    system: str = ""
    system_turn: str = "{system}"
    user: str
    header: str
    answer: str
    learn_header: bool = False
    media: Mapping[str, str] = FrozenMap()
    always_learned: tuple[str, ...] = ()
    bos: bool = True
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "media", FrozenMap(self.media))
        if TEXT not in self.answer:
            raise SpecError(f"prompt answer template {self.answer!r} has no {TEXT}: the model would learn no answer")
        for modality, template in self.media.items():
            if template.count(MEDIA) != 1:
                raise SpecError(f"prompt template of {modality} must hold {MEDIA} exactly once, got {template!r}")

    def render(self, turns: Sequence[Turn], *, answer_next: bool = False) -> list[Piece]:
        """Pieces of a conversation; `answer_next` appends the header that a new answer follows.

        Raises:
            SpecError: a medium of a modality for which the prompt has no template.
        """
        pieces = [Piece(self._system(turns))]
        for turn in turns:
            if turn.role == "user":
                pieces += self._user(turn)
            elif turn.role == "assistant":
                pieces += self._assistant(turn)
        if answer_next:
            pieces.append(Piece(self.header))
        return [p for p in pieces if p.media is not None or p.text]

    def _system(self, turns: Sequence[Turn]) -> str:
        own = ["".join(c for c in t.content if isinstance(c, str)) for t in turns if t.role == "system"]
        text = own[0] if own else self.system
        return self.system_turn.replace("{system}", text) if text else ""

    def _user(self, turn: Turn) -> Iterator[Piece]:
        media = [c for c in turn.content if isinstance(c, tuple)]
        words = "".join(c for c in turn.content if isinstance(c, str))
        for literal in _split(self.user):
            if literal == CONTENT:
                yield from (p for c in turn.content for p in self._one(c))
            elif literal == MEDIA:
                yield from (p for m in media for p in self._one(m))
            elif literal == TEXT:
                yield Piece(words.strip() if media else words)
            else:
                yield Piece(literal)

    def _assistant(self, turn: Turn) -> Iterator[Piece]:
        before, after = self.answer.split(TEXT)
        yield Piece(self.header, learn=self.learn_header and turn.learn)
        yield Piece(before, learn=turn.learn)
        for content in turn.content:
            yield from (Piece(p.text, p.media, learn=turn.learn) for p in self._one(content))
        yield Piece(after, learn=turn.learn)

    def _one(self, content: str | tuple[str, int]) -> Iterator[Piece]:
        if isinstance(content, str):
            yield Piece(content)
            return
        modality, number = content
        if modality not in self.media:
            raise SpecError(
                f"the prompt has no template for {modality} (it has {', '.join(self.media) or 'none'}); "
                f"drop the {modality} or use a system that reads it"
            )
        before, after = self.media[modality].split(MEDIA)
        yield from (Piece(before), Piece(media=number), Piece(after))


def _split(template: str) -> list[str]:
    """Literals and placeholders of a template, in order."""
    parts, rest = [], template
    while rest:
        found = [(rest.find(p), p) for p in (CONTENT, MEDIA, TEXT) if p in rest]
        if not found:
            parts.append(rest)
            break
        at, placeholder = min(found)
        parts += [rest[:at], placeholder]
        rest = rest[at + len(placeholder) :]
    return [p for p in parts if p]
