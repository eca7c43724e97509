"""One answer under construction, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from omniform.data.document import Media, Segment, Text
from omniform.data.processor import Ids, Sample
from omniform.data.tokenizer import Tokenizer
from omniform.grammar import Walk
from omniform.inference.guidance import Guide
from omniform.inference.sampling import GenerationConfig
from omniform.inference.voice import Voice
from omniform.inference.writer import TextWriter
from omniform.prompt import Prompt

Finish: TypeAlias = Literal["stop", "length"]
"""`stop`: an end token or a stop string came. `length`: `max_new_tokens`, or the backbone's context, was reached."""


@dataclass(frozen=True)
class Answer:
    """What the model said to one document.

    Attributes:
        segments: in order; text that follows text is one segment, and media told along with it come whole at the end.
        tokens: ids generated, the one that ended the answer included.
        log_probs: log-probability of each under the model, before temperature and the like.
    """

    segments: tuple[Segment, ...]
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish: Finish

    @property
    def text(self) -> str:
        return "".join(s.text for s in self.segments if isinstance(s, Text))


@dataclass(frozen=True)
class Ending:
    """What ends an answer: ids, and strings, which tokens may spell in many ways.

    A stop string that is one special token of the vocabulary only ever comes as that id.
    """

    ids: frozenset[int]
    strings: tuple[str, ...]

    @staticmethod
    def of(tokenizer: Tokenizer, prompt: Prompt, config: GenerationConfig) -> Ending:
        ids = set() if tokenizer.eos_id is None else {tokenizer.eos_id}
        strings = []
        for stop in dict.fromkeys((*prompt.stop, *config.stop)):
            encoded, _ = tokenizer.encode(stop)
            if len(encoded) == 1 and tokenizer.decode(encoded) == "":
                ids.add(encoded[0])
            else:
                strings.append(stop)
        return Ending(frozenset(ids), tuple(strings))


@dataclass
class Row:
    """One document that is being answered.

    Attributes:
        limit: tokens after which it ends.
        segments: what has been said.
        walk: where it stands among the spans of media, for systems that have such.
        render: (modality, codes) -> medium.
        guide: guidance of the medium that is being written; rows whose media began together share it.
        voices: what tells media along with the words.
        draw: (modality, hidden states, name of the random numbers) -> medium of a signal; the states are those that its
            tokens follow from, and the one at its last token.
    """

    sample: Sample
    random: torch.Generator
    writer: TextWriter
    ending: Ending
    limit: int
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    finish: Finish | None = None
    walk: Walk | None = None
    render: Callable[[str, Sequence[int]], Segment] | None = None
    guide: Guide | None = None
    voices: tuple[Voice, ...] = ()
    _told: list[Media] = field(default_factory=list)
    draw: Callable[[str, Sequence[Tensor], str], Segment] | None = None
    _trail: list[Tensor] = field(default_factory=list)
    _due: str = ""
    _unread: list[int] = field(default_factory=list)

    @property
    def room(self) -> int:
        """Tokens that may still come."""
        return self.limit - len(self.tokens)

    @property
    def writing(self) -> bool:
        """Whether it goes on with a medium that it has begun."""
        return self.walk is not None and self.walk.open >= 0 and self.finish is None

    def take(self, token: int, log_prob: float) -> None:
        """One more token."""
        self.tokens.append(token)
        self.log_probs.append(log_prob)
        if token in self.ending.ids:
            self.finish = "stop"
        elif not self._took_code(token):
            self._unread.append(token)
            if self.ending.strings:
                self.read()
        self._end()

    def reach(self, hidden: Tensor) -> None:
        """The hidden state that the next token follows from; a signal's medium is due when its last token was read."""
        open_ = self.walk is not None and self.walk.signals
        self._trail = [*self._trail, hidden] if open_ or self._due else [hidden]
        if self._due and self.draw:
            modality, self._due = self._due, ""
            self.segments.append(self.draw(modality, self._trail, f"{self.sample.id}/{len(self.tokens)}"))
            self._trail = [hidden]
            self._end()

    def _end(self) -> None:
        """End the answer where nothing more is wanted or may come; not before a medium that is due."""
        if self._due:
            return
        if self.walk is not None and self.walk.over:
            self.finish = "stop"
        if self.finish is None and len(self.tokens) >= self.limit:
            self.finish = "length"
        if self.finish:
            self.read()
            self._add(self.writer.close())

    def hear(self, hidden: Tensor) -> None:
        """The hidden state that the last token followed from."""
        for voice in self.voices:
            piece = voice.hear(hidden, last=self.finish is not None)
            if piece is not None:
                self.read()
                self.segments.append(piece)
            if self.finish and (whole := voice.whole()) is not None:
                self._told.append(whole)

    def _took_code(self, token: int) -> bool:
        """Whether the token belongs to a medium; a medium that it completes is a segment."""
        if self.walk is None:
            return False
        inside = self.walk.open >= 0
        done = self.walk.take(token)
        if not inside and self.walk.open < 0 and not done:
            return False
        if not inside:
            self.read()
            self._add(self.writer.close())
            self.writer = self.writer.fresh()
        if done and self.walk.is_signal(done[0]):
            self._due = done[0]
        elif done and self.render:
            self.segments.append(self.render(*done))
        return True

    def read(self) -> None:
        """Turn the tokens so far into text; only needed where someone watches, or text may end the answer."""
        if self._unread:
            self._add(self.writer.write(self._unread))
            self._unread = []
        if self.writer.stopped:
            self.finish = "stop"

    def _add(self, text: str) -> None:
        if text:
            self.segments.append(Text(text, "assistant"))

    def answer(self) -> Answer:
        """The answer so far; of a row that was given up it ends for its length."""
        along = [voice.modality for voice in self.voices]
        said = [s for s in self.segments if isinstance(s, Text) or s.modality not in along]
        segments = (*_joined(said), *self._told)
        return Answer(segments, tuple(self.tokens), tuple(self.log_probs), self.finish or "length")

    def words(self) -> Ids:
        """Ids of the prompt's text and of the answer; media rows have no ids."""
        text = np.ones(len(self.sample), dtype=bool)
        for item in self.sample.media:
            text[item.at] = False
        return np.concatenate([self.sample.ids[text], np.asarray(self.tokens, dtype=np.int64)])


def _joined(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Neighbouring texts as one."""
    for is_text, members in groupby(segments, key=lambda s: isinstance(s, Text)):
        if is_text:
            yield Text("".join(s.text for s in members if isinstance(s, Text)), "assistant")
        else:
            yield from members
