"""How a conversation becomes one string with holes for media: prompts as data.

A `Prompt` is rendered to `Piece`s. Text pieces between two media are tokenized together, exactly as the original
code bases do, and the learned part is found again by character offsets (`data.processor`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Literal, TypeAlias

from omniform.frozen import FrozenMap
from omniform.geometry import SpecError

MEDIA, TEXT, CONTENT, SYSTEM, NUMBER = "{media}", "{text}", "{content}", "{system}", "{number}"

Medium: TypeAlias = tuple[str, int]
"""Modality, and running index among the document's media."""


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
    content: tuple[str | Medium, ...]
    learn: bool = True


@dataclass(frozen=True, kw_only=True)
class Join:
    """How words and media meet in a `{content}` turn.

    Attributes:
        lead: between the media that begin a turn and the words after them, where these bring no white space.
        around: (before, after) a medium in place of the white space there, but not at the ends of the turn.
        lone_first: whether a medium that is alone in its turn moves to the front; the words are stripped then.
        between: between any two neighbours of the turn, words or media; no other white space is added then.
    """

    lead: str = ""
    around: tuple[str, str] | None = None
    lone_first: bool = False
    between: str = ""

    def __call__(self, content: Sequence[str | Medium]) -> list[str | Medium]:
        """The content with the white space that belongs between its words and media."""
        items = _merged(content)
        media = [c for c in items if not isinstance(c, str)]
        if self.lone_first and len(media) == 1 and isinstance(items[0], str):
            words = "".join(c for c in items if isinstance(c, str)).strip()
            items = _merged((*media, words))
        if self.between:
            return [part for item in items for part in (self.between, item)][1:]
        if self.around is not None:
            return self._spaced(items, *self.around)
        first = next((i for i, c in enumerate(items) if isinstance(c, str)), 0)
        leading = first > 0 and not str(items[first])[0].isspace()
        return [*items[:first], self.lead, *items[first:]] if leading else items

    @staticmethod
    def _spaced(items: Sequence[str | Medium], before: str, after: str) -> list[str | Medium]:
        out: list[str | Medium] = []
        for i, item in enumerate(items):
            if isinstance(item, str):
                out.append(item.strip())
            else:
                out += [before if out else "", item, after if i + 1 < len(items) else ""]
        return out


@dataclass(frozen=True, kw_only=True)
class Places:
    """How boxes and points are written as words: fractions of the picture's width and height (`data.coordinates`).

    Attributes:
        square: whether they are fractions of the square that the picture is padded to, centred, instead.
        decimals: digits after the point.
        whole: digits of a whole number in the place of a fraction: with 3, thousandths from 000 to 999.
        opening, closing: around the places that belong to one phrase.
        between: between the numbers of one place.
        among: between places.
    """

    square: bool = False
    decimals: int = 3
    whole: int = 0
    opening: str = "["
    closing: str = "]"
    between: str = ","
    among: str = ";"


@dataclass(frozen=True, kw_only=True)
class Chain:
    """An answer that is thought through in other forms before it is given, as parts that follow one another.

    Attributes:
        parts: (name, sign that begins it) of each; a first part without a sign begins with the answer.
    """

    parts: tuple[tuple[str, str], ...]

    def read(self, answer: str) -> dict[str, str]:
        """Name -> words of the parts that an answer has; none where no sign stands in it."""
        found = [(at, at + len(sign), name) for name, sign in self.parts if sign and (at := answer.find(sign)) >= 0]
        if not found:
            return {}
        begins = [(0, 0, name) for name, sign in self.parts[:1] if not sign] + sorted(found)
        ends = [at for at, _, _ in begins[1:]] + [len(answer)]
        return {name: answer[start:end] for (_, start, name), end in zip(begins, ends, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation template.

    Attributes:
        system: text before the first turn; a document's own system turn replaces `{system}` in `system_turn`.
        system_turn: template of the system text, with `{system}`.
        user: template of a user turn. `{content}` keeps media where they stand; `{media}` and `{text}` separately
            move all media of the turn to where `{media}` is; without `{text}` the user's words are dropped.
        first_user: template of the first user turn where it differs; with `{system}`, the system turn stands there.
        user_learned: words of the user templates that are predicted, such as a sign that ends the turn before.
        join: how words and media meet in `{content}`.
        header: what precedes an assistant's words; also what generation starts from.
        answer: template of the assistant's words, with `{text}`; learned as a whole.
        last_answer: template of the answer that ends a conversation, where it differs.
        tail: what follows an answer without being learned.
        asked: what ends a prompt that a backbone reads apart from its answer.
        learn_header: whether the header is learned too.
        learn_user: whether user turns are learned as a whole, words and codes.
        media: modality -> template of one medium, with `{media}`; before it `{number}` counts its modality from 1.
        answered: the same for media of an answer, where they differ.
        always_learned: tokens that are predicted wherever they stand, also in user turns.
        bos: whether the tokenizer's begin-of-sequence token comes first.
        piecewise: whether each literal of a template and what stands between literals is tokenized on its own;
            otherwise all text between two media is tokenized as one string.
        learned_apart: whether what is learned and what is not are tokenized on their own, such as answers.
        stop: strings that end an answer.
        places: how boxes and points are written, where the system speaks of them.
        chain: the parts that answers come in, where they do.
    """

    system: str = ""
    system_turn: str = SYSTEM
    user: str
    first_user: str = ""
    user_learned: str = ""
    join: Join = Join()
    header: str
    answer: str
    last_answer: str = ""
    tail: str = ""
    asked: str = ""
    learn_header: bool = False
    learn_user: bool = False
    media: Mapping[str, str] = FrozenMap()
    answered: Mapping[str, str] = FrozenMap()
    always_learned: tuple[str, ...] = ()
    bos: bool = True
    piecewise: bool = False
    learned_apart: bool = False
    stop: tuple[str, ...] = ()
    places: Places | None = None
    chain: Chain | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "media", FrozenMap(self.media))
        object.__setattr__(self, "answered", FrozenMap(self.answered))
        for template in (self.answer, self.last_answer or self.answer):
            if TEXT not in template:
                raise SpecError(f"prompt answer template {template!r} has no {TEXT}: the model would learn no answer")
        for modality, template in (*self.media.items(), *self.answered.items()):
            if template.count(MEDIA) != 1:
                raise SpecError(f"prompt template of {modality} must hold {MEDIA} exactly once, got {template!r}")

    def render(self, turns: Sequence[Turn], *, answer_next: bool = False) -> list[Piece]:
        """Pieces of a conversation; `answer_next` appends the header that a new answer follows.

        Raises:
            SpecError: a medium of a modality for which the prompt has no template.
        """
        system = self._system(turns)
        inside = SYSTEM in self.first_user
        pieces = [] if inside else [Piece(system)]
        first = self.first_user or self.user
        for number, turn in enumerate(turns, 1):
            if turn.role == "user":
                learn = self.learn_user and turn.learn
                pieces += [
                    replace(p, learn=p.learn or learn) for p in self._user(turn, first, system if inside else "")
                ]
                first = self.user
            elif turn.role == "assistant":
                last = number == len(turns) and not answer_next
                pieces += self._assistant(turn, (last and self.last_answer) or self.answer)
        if answer_next:
            pieces.append(Piece(self.header))
        return [p for p in _numbered(pieces, turns) if p.media is not None or p.text]

    def render_apart(self, turns: Sequence[Turn]) -> tuple[list[Piece], list[Piece]]:
        """The last answer apart from what precedes it, for backbones that read a prompt and answer apart.

        The header belongs to the prompt; a conversation that does not end with the assistant has no answer yet.

        Raises:
            SpecError: as `render`, or an earlier answer is to be learned, too.
        """
        answered = bool(turns) and turns[-1].role == "assistant"
        before = turns[:-1] if answered else turns
        earlier = sum(turn.role == "assistant" and turn.learn for turn in before)
        if answered and earlier:
            raise SpecError(
                f"{earlier + 1} answers of one conversation are to be learned, but a backbone that reads the prompt "
                "apart learns one; give a document for each, with learn=False for the answers before it"
            )
        prompt = [Piece(p.text, p.media) for p in self.render(before, answer_next=True)]
        prompt += [Piece(self.asked)] if self.asked else []
        answer = self._answer(turns[-1], self.last_answer or self.answer) if answered else ()
        return prompt, [p for p in answer if p.media is not None or p.text]

    def together(self, pieces: Iterable[Piece]) -> list[tuple[Piece, ...]]:
        """Neighbouring texts in runs that are tokenized as one string each."""
        if self.piecewise:
            return [(piece,) for piece in pieces]
        if self.learned_apart:
            return [tuple(run) for _, run in groupby(pieces, key=lambda p: p.learn)]
        return [tuple(pieces)]

    def literals(self) -> list[str]:
        """The texts of all templates, without their placeholders."""
        templates = (
            self.system, self.system_turn, self.user, self.first_user, self.header, self.answer, self.last_answer,
            self.tail, self.asked, self.join.lead, self.join.between, *(self.join.around or ()), *self.media.values(),
            *self.answered.values(),
            *self.always_learned, *self.stop,
        )  # fmt: skip
        parts = (part for template in templates for part in _split(template))
        return [part for part in parts if part not in PLACEHOLDERS]

    def _system(self, turns: Sequence[Turn]) -> str:
        own = ["".join(c for c in t.content if isinstance(c, str)) for t in turns if t.role == "system"]
        text = own[0] if own else self.system
        return self.system_turn.replace(SYSTEM, text) if text else ""

    def _user(self, turn: Turn, template: str, system: str) -> Iterator[Piece]:
        media = [c for c in turn.content if not isinstance(c, str)]
        words = "".join(c for c in turn.content if isinstance(c, str))
        for part in _split(template):
            if part == CONTENT:
                yield from (p for c in self.join(turn.content) for p in self._one(c))
            elif part == MEDIA:
                yield from self._media(media, ends=TEXT in template and not words.strip())
            elif part == TEXT:
                yield Piece(words.strip() if media else words)
            elif part == SYSTEM:
                yield Piece(system)
            else:
                before, sign, after = part.partition(self.user_learned) if self.user_learned else (part, "", "")
                yield from (Piece(before), Piece(sign, learn=turn.learn), Piece(after))

    def _media(self, media: Sequence[Medium], ends: bool) -> Iterator[Piece]:
        """Media in a row; where they end the turn, no white space follows them."""
        pieces = [p for m in media for p in self._one(m)]
        if pieces and ends:
            pieces[-1] = Piece(pieces[-1].text.rstrip())
        yield from pieces

    def _assistant(self, turn: Turn, answer: str) -> Iterator[Piece]:
        yield Piece(self.header, learn=self.learn_header and turn.learn)
        yield from self._answer(turn, answer)

    def _answer(self, turn: Turn, answer: str) -> Iterator[Piece]:
        before, after = answer.split(TEXT)
        yield Piece(before, learn=turn.learn)
        for content in turn.content:
            yield from (Piece(p.text, p.media, learn=turn.learn) for p in self._one(content, self.answered))
        yield Piece(after, learn=turn.learn)
        yield Piece(self.tail)

    def _one(self, content: str | Medium, own: Mapping[str, str] = FrozenMap()) -> Iterator[Piece]:
        """Pieces of words or a medium; `own` templates go before those of all media."""
        if isinstance(content, str):
            yield Piece(content)
            return
        modality, number = content
        if modality not in self.media:
            raise SpecError(
                f"the prompt has no template for {modality} (it has {', '.join(self.media) or 'none'}); "
                f"drop the {modality} or use a system that reads it"
            )
        before, after = own.get(modality, self.media[modality]).split(MEDIA)
        yield from (Piece(before), Piece(media=number), Piece(after))


PLACEHOLDERS = (CONTENT, MEDIA, TEXT, SYSTEM, NUMBER)


def _numbered(pieces: Sequence[Piece], turns: Sequence[Turn]) -> list[Piece]:
    """Pieces with the number of each medium in the template before it."""
    modality = {number: name for t in turns for c in t.content if not isinstance(c, str) for name, number in [c]}
    counts: Counter[str] = Counter()
    out = list(pieces)
    for at, piece in enumerate(pieces):
        if piece.media is not None:
            name = modality[piece.media]
            counts[name] += 1
            out[at - 1] = replace(out[at - 1], text=out[at - 1].text.replace(NUMBER, str(counts[name])))
    return out


def _merged(content: Sequence[str | Medium]) -> list[str | Medium]:
    """Neighbouring strings as one, empty ones left out."""
    out: list[str | Medium] = []
    for is_text, group in groupby(content, key=lambda c: isinstance(c, str)):
        members = list(group)
        out += members if not is_text else [words for words in ("".join(map(str, members)),) if words]
    return out


@lru_cache
def _split(template: str) -> tuple[str, ...]:
    """Literals and placeholders of a template, in order."""
    parts, rest = [], template
    while rest:
        found = [(rest.find(p), p) for p in PLACEHOLDERS if p in rest]
        if not found:
            parts.append(rest)
            break
        at, placeholder = min(found)
        parts += [rest[:at], placeholder]
        rest = rest[at + len(placeholder) :]
    return tuple(p for p in parts if p)
