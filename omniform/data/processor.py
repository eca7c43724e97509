"""Document -> sample: one sequence of ids with places for media rows, and which ids are learned.

The text between two media is tokenized as one string, as most original code bases do, or piece by piece where the
prompt says so; a token is learned when it covers a character that the prompt says is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import groupby
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

from omniform.data.document import Document, Media
from omniform.data.media import size_of
from omniform.data.positions import Ids, position_ids
from omniform.data.spans import span_ids
from omniform.data.tokenizer import Tokenizer, learned_tokens
from omniform.data.told import Along, ToldItem, told_from, without_told
from omniform.geometry import Plan, SpecError, Words
from omniform.grammar import SpanIds
from omniform.parts import OutputDecoder, Sight, Views
from omniform.prompt import Piece, Prompt, Turn
from omniform.spec import Continuous, Discrete, System

Run: TypeAlias = tuple[list[int], list[bool]] | Piece
"""Ids of words and whether each is learned, or the place of a medium."""


class TooLong(ValueError):
    """A document whose media do not fit into the allowed positions."""


@dataclass(frozen=True)
class MediaItem:
    """One medium in a sample: its plan, and the positions its rows take (none: it is met in another way).

    Attributes:
        anchor: the first position that sees it; None is that of its first row.
    """

    modality: str
    media: Media
    plan: Plan
    at: Ids
    anchor: int | None = None

    @property
    def first(self) -> int:
        """The first position that sees it."""
        return int(self.at[0]) if self.anchor is None else self.anchor

    @property
    def last(self) -> int:
        """The last position that is its own, or marks it."""
        return int(self.at[-1]) if len(self.at) else self.first

    def moved(self, by: int) -> Self:
        """The same medium in a sequence where its positions lie further back."""
        return replace(self, at=self.at + by, anchor=None if self.anchor is None else self.anchor + by)


@dataclass(frozen=True)
class Aim(MediaItem):
    """A medium that a signal stands for: `at` is where its tokens are, `plan` how it becomes what losses see.

    Attributes:
        caption: what it shows, in words.
        learn: whether it is learned.
    """

    caption: str = ""
    learn: bool = True


@dataclass(frozen=True)
class Sample:
    """One document as the backbone reads it.

    Attributes:
        ids: token ids, 0 at media rows.
        learn: ids that are predicted (each from the position before it).
        positions: position ids, (n,) or (axes, n).
        next_position: position id of what follows.
        media: media in order, of those whose rows are computed.
        coded: media in order, of those that stand among the ids as codes.
        outputs: number of the system's output that each id belongs to, where some are no text.
        truncated: ids cut off at the end.
        prompt: leading positions that an encoder reads; 0 where prompt and answer are one sequence.
        told: media in order, of those that are told along with answers and learned.
        aims: media in order, of those that signals stand for.
    """

    ids: Ids
    learn: npt.NDArray[np.bool_]
    positions: Ids
    next_position: int
    media: tuple[MediaItem, ...] = ()
    id: str = ""
    truncated: int = 0
    coded: tuple[MediaItem, ...] = ()
    outputs: npt.NDArray[np.int64] | None = None
    prompt: int = 0
    told: tuple[ToldItem, ...] = ()
    aims: tuple[Aim, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def media_keys(self) -> tuple[str, ...]:
        return tuple(item.media.key for item in (*self.media, *self.coded))

    def cut(self, length: int) -> Self:
        """At most `length` positions; words are cut at the end, media never.

        Raises:
            TooLong: media rows lie beyond the limit, or a prompt that an encoder reads leaves nothing of it.
        """
        if len(self) <= length:
            return self
        if self.prompt >= length:
            raise TooLong(
                f"document {self.id or '(unnamed)'}: its prompt takes {self.prompt} positions, which leaves none of "
                f"{length} for an answer; raise max_positions, or shorten its text"
            )
        last = max((item.last for item in (*self.media, *self.coded, *self.aims)), default=-1)
        if last >= length:
            raise TooLong(
                f"document {self.id or '(unnamed)'}: media end at position {last + 1}, but at most {length} positions "
                "are allowed; raise max_positions or use fewer views"
            )
        return replace(self.span(0, length), truncated=len(self) - length)

    def followed_by(self, ids: Sequence[int]) -> Self:
        """The sample with words after it, which are not learned."""
        more = np.asarray(ids, dtype=np.int64)
        places = np.broadcast_to(self.next_position + np.arange(len(more)), (*self.positions.shape[:-1], len(more)))
        return replace(
            self,
            ids=np.concatenate([self.ids, more]),
            learn=np.concatenate([self.learn, np.zeros(len(more), dtype=np.bool_)]),
            positions=np.concatenate([self.positions, places], axis=-1),
            next_position=self.next_position + len(more),
        )

    def span(self, start: int, stop: int) -> Self:
        """The part from `start` to `stop`, between which its media lie whole; position ids stay what they are."""
        inside = (item for item in self.media if start <= item.first < stop)
        told = (item.within(start, stop) for item in self.told)
        after = self.next_position if stop >= len(self) else int(self.positions[..., stop].max())
        return replace(
            self,
            ids=self.ids[start:stop],
            learn=self.learn[start:stop],
            positions=self.positions[..., start:stop],
            next_position=after,
            media=tuple(item.moved(-start) for item in inside),
            coded=tuple(item.moved(-start) for item in self.coded if start <= item.first < stop),
            aims=tuple(item.moved(-start) for item in self.aims if start <= item.first < stop),
            outputs=None if self.outputs is None else self.outputs[start:stop],
            told=tuple(item for item in told if len(item.at)),
        )


@dataclass
class _Draft:
    """Ids under construction."""

    ids: list[int] = field(default_factory=list)
    learn: list[bool] = field(default_factory=list)
    media: list[MediaItem] = field(default_factory=list)
    coded: list[MediaItem] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)

    def add(self, ids: Sequence[int], learn: Sequence[bool]) -> None:
        self.ids += ids
        self.learn += learn


class Processor:
    """Turns documents into samples for one system and one tokenizer.

    Args:
        encode: codes of a medium that enters as such (`data.codes`); only systems that read media so need it.
        choose: cells that each view of a medium keeps (`data.choices`); only systems whose encoder chooses need it.
    """

    def __init__(
        self,
        system: System,
        tokenizer: Tokenizer,
        encode: Callable[[MediaItem], Ids] | None = None,
        choose: Callable[[MediaItem], Sequence[tuple[int, ...]]] | None = None,
    ) -> None:
        self.system = system
        self.tokenizer = tokenizer
        self.encode_media = encode
        self.choose_cells = choose
        self._last: tuple[Media, Views, Plan] | None = None
        self._encode = lru_cache(maxsize=65536)(self._encode_now)
        self._script = lru_cache(maxsize=4096)(self._script_now)

    @cached_property
    def spans(self) -> Mapping[str, SpanIds]:
        """Modality -> ids of its codes, begin and end in the tokenizer's vocabulary.

        Raises:
            LookupError: the vocabulary lacks one of them.
        """
        return {modality: span_ids(self.system, modality, self.tokenizer) for modality in self.system.tokenised}

    @cached_property
    def signals(self) -> Mapping[str, SpanIds]:
        """Modality -> ids of its signal in the tokenizer's vocabulary.

        Raises:
            LookupError: the vocabulary lacks one of them.
        """
        outputs, written = self.system.outputs.items(), self.system.written
        found = {m: self.tokenizer.ids_of(output.signal) for m, output in outputs if output.signal}
        return {modality: SpanIds.signal(modality, ids, modality in written) for modality, ids in found.items()}

    def sample(
        self,
        document: Document,
        *,
        prompt: Prompt | None = None,
        views: Mapping[str, Views] | None = None,
        answer_next: bool = False,
    ) -> Sample:
        """The sample of one document.

        Args:
            prompt: instead of the system's (a stage may have its own).
            views: modality -> views instead of the system's.
            answer_next: end with the header after which an answer is generated.

        Raises:
            SpecError: the system does not read one of the modalities.
            MediaError: a medium cannot be read.
        """
        prompt = prompt or self.system.prompt
        draft, read = _Draft(), 0
        media = tuple(zip(document.media, document.captions, strict=True))
        add = partial(self._add, draft, media=media, views=views or {})
        if prompt.bos and self.tokenizer.bos_id is not None:
            draft.add([self.tokenizer.bos_id], [False])
        start = self.system.backbone.start_id
        turns, along = without_told(document, self.system.told_along)
        if start is None:
            add(self._script(prompt, tuple(turns), answer_next))
        else:
            asked, answer = prompt.render_apart(turns)
            add(self._runs(prompt, asked))
            read = len(draft.ids)
            draft.add([start], [False])
            add(self._runs(prompt, answer))
        ids = np.asarray(draft.ids, dtype=np.int64)
        learn = np.asarray(draft.learn, dtype=np.bool_)
        told = () if answer_next else self._told(along, learn)
        if prompt.always_learned:
            learn[read:] |= np.isin(ids[read:], [self.tokenizer.id_of(t) for t in prompt.always_learned])
            for item in draft.media:
                learn[item.at] = False
        rows = [(item.plan, item.at) for item in draft.media if len(item.at)]
        positions, after = position_ids(self.system.positions, len(ids), rows)
        coded = tuple(draft.coded)
        return Sample(
            ids, learn, positions, after, tuple(draft.media), document.id, coded=coded, aims=tuple(draft.aims),
            told=told, outputs=self._outputs(ids, coded), prompt=read,
        )  # fmt: skip

    def _told(self, along: Along, learn: npt.NDArray[np.bool_]) -> tuple[ToldItem, ...]:
        """Media told along with answers, each of which is one run of learned ids."""
        return tuple(ToldItem(item.modality, at, self._codes(item)) for item, at in told_from(along, learn))

    def _add(
        self, draft: _Draft, runs: Iterable[Run], *, media: Sequence[tuple[Media, str]], views: Mapping[str, Views]
    ) -> None:
        for run in runs:
            if not isinstance(run, Piece):
                draft.add(*run)
                continue
            item, caption = media[run.media or 0]
            if item.role == "assistant" and self.system.writes_signal(item.modality):
                self._add_signal(draft, item, caption, run.learn)
            else:
                self._add_media(draft, item, len(media), run.learn, views)

    def _script_now(self, prompt: Prompt, turns: Sequence[Turn], answer_next: bool) -> tuple[Run, ...]:
        """A conversation as it is told about any media of these modalities."""
        return tuple(self._runs(prompt, prompt.render(turns, answer_next=answer_next)))

    def _runs(self, prompt: Prompt, pieces: Iterable[Piece]) -> Iterator[Run]:
        for is_text, members in groupby(pieces, key=lambda p: p.media is None):
            neighbours = tuple(members)
            yield from map(self._encode, prompt.together(neighbours)) if is_text else neighbours

    def _outputs(self, ids: Ids, coded: Sequence[MediaItem]) -> Ids | None:
        """Which output says each id; media that the system only reads count as text."""
        outputs = list(self.system.outputs)
        said = [item for item in coded if item.modality in outputs]
        if not said:
            return None
        found = np.full(len(ids), outputs.index("text"))
        for item in said:
            found[item.at] = outputs.index(item.modality)
        return found

    def _add_codes(self, draft: _Draft, item: MediaItem, learn: bool) -> None:
        """A medium as begin, codes, end."""
        span, start = self.spans[item.modality], len(draft.ids)
        ids = [span.begin, *span.ids_of(self._coded(item).tolist()), span.end]
        draft.add(ids, [learn] * len(ids))
        draft.coded.append(replace(item, at=np.arange(start, start + len(ids))))

    def _coded(self, item: MediaItem) -> Ids:
        """Codes of a medium."""
        if self.encode_media is None:
            raise SpecError(
                f"{self.system.slug} has codes of {item.modality}; give Processor(..., encode=Coder(model))"
            )
        return self.encode_media(item)

    def _codes(self, item: Media) -> Ids:
        """Codes of a medium that is told."""
        plan = self.system.told_along[item.modality].plan(size_of(item))
        return self._coded(MediaItem(item.modality, item, plan, np.arange(0)))

    def _add_signal(self, draft: _Draft, item: Media, caption: str, learn: bool) -> None:
        """A medium as the tokens that stand for it."""
        output, start, ids = self.system.outputs[item.modality], len(draft.ids), self.signals[item.modality].ids
        draft.add(ids, [learn and number < output.said for number in range(len(ids))])
        plan = self._aimed(item, output)
        at = np.arange(start, start + len(ids))
        draft.aims.append(Aim(item.modality, item, plan, at, caption=caption, learn=learn))

    def _aimed(self, item: Media, output: OutputDecoder) -> Plan:
        """What the losses of an output see of a medium."""
        if output.looks:
            entry = self.system.continuous(output.looks)
            return self._plan(item, entry.views, entry.sight)
        made = output.generator
        return self._plan(item, output.aims, made.sight) if output.aims and made else Plan((), (0, 0), ())

    def _add_media(self, draft: _Draft, item: Media, count: int, learn: bool, own: Mapping[str, Views]) -> None:
        """One of `count` media that are read, or that were said as codes."""
        entry = self.system.read(item.modality)
        if item.role == "assistant" and isinstance(entry, Continuous) and item.modality in self.system.tokenised:
            entry = entry.said(self.system.coded(item.modality))
        if isinstance(entry, Discrete):
            views = own.get(item.modality, entry.views)
            plan = self._plan(item, views.among(count), entry.sight)
            self._add_codes(draft, MediaItem(item.modality, item, plan, np.arange(0)), learn)
            return
        strategy = own.get(item.modality, entry.views).among(count)
        plan = self._plan(item, strategy, entry.sight)
        if entry.encoder.selects:
            plan = self._chosen(item, plan)
        if not entry.fusion.in_sequence:
            anchor = 0 if entry.fusion.whole_document else max(len(draft.ids) - 1, 0)
            draft.media.append(MediaItem(item.modality, item, plan, np.arange(0), anchor))
            return
        at: list[int] = []
        for block in plan.blocks:
            if isinstance(block, Words):
                draft.add(*self._encode((Piece(block.text),)))
            else:
                at += range(len(draft.ids), len(draft.ids) + block.positions)
                draft.add([0] * block.positions, [False] * block.positions)
        draft.media.append(MediaItem(item.modality, item, plan, np.asarray(at, dtype=np.int64)))

    def _plan(self, item: Media, strategy: Views, sight: Callable[[], Sight]) -> Plan:
        """The plan of a medium; neighbours often ask about the same one, whose header is then read once."""
        last = self._last
        if last is None or last[0] is not item or last[1] != strategy:
            last = self._last = item, strategy, strategy.plan(size_of(item), sight())
        return last[2]

    def _chosen(self, item: Media, plan: Plan) -> Plan:
        """The plan with the cells that the encoder keeps."""
        if self.choose_cells is None:
            raise SpecError(
                f"the encoder of {self.system.slug} keeps some cells of {item.modality} and drops the others; give "
                "Processor(..., choose=Chooser(model))"
            )
        return plan.keeping(self.choose_cells(MediaItem(item.modality, item, plan, np.arange(0))))

    def _encode_now(self, pieces: tuple[Piece, ...]) -> tuple[list[int], list[bool]]:
        """Ids of joined text pieces, and whether each covers a learned character."""
        text = "".join(p.text for p in pieces)
        ids, offsets = self.tokenizer.encode(text)
        return list(ids), learned_tokens(offsets, pieces)
