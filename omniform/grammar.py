"""How media of codec tokens stand among text: spans as data, and the walk that keeps every span whole.

A span is a begin token, codes, an end token. Which of its tokens may come next is a pure function of what came before
and of how many tokens may still come, so an answer whose tokens are all chosen among the allowed ones is well formed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

TEXT = "text"
CODE = "{code}"


@dataclass(frozen=True, kw_only=True)
class CodeSpan:
    """Names of a modality's tokens in the backbone's vocabulary.

    Attributes:
        token: name of a code, with `{code}` where its number stands; books follow each other in the numbers.
        digits: characters of the numbers, 0 to 9.
        begin, end: tokens around the codes of one medium.
        least, most: codes of one medium, where its extent does not fix their number (`Codec.counted`).
    """

    token: str
    digits: str = "0123456789"
    begin: str
    end: str
    least: int = 1
    most: int = 4096

    def name(self, number: int) -> str:
        """Name of a code: `name(17)` is "<17>" for "<{code}>"."""
        return self.token.replace(CODE, "".join(self.digits[int(d)] for d in str(number)))

    def names(self, count: int) -> Iterator[str]:
        """All tokens for `count` codes: codes, then begin and end."""
        yield from (self.name(number) for number in range(count))
        yield from (self.begin, self.end)


@dataclass(frozen=True)
class SpanIds:
    """A span in ids.

    Attributes:
        codes: id of each code; of the codes of the second book behind those of the first, and so on.
        size: codes of a book.
        least, most: codes of one medium; multiples of the books.
        written: whether the system may say it; what it only reads never comes out.
        ordered: whether it is a signal: its tokens always are the same, from begin to end.
    """

    modality: str
    begin: int
    end: int
    codes: tuple[int, ...]
    size: int
    least: int
    most: int
    written: bool = True
    ordered: bool = False

    @staticmethod
    def signal(modality: str, ids: Sequence[int], written: bool = True) -> SpanIds:
        """Tokens that stand for one medium."""
        first, *others = ids
        middle, last = tuple(others[:-1]), others[-1] if others else first
        return SpanIds(modality, first, last, middle, max(len(middle), 1), len(middle), len(middle), written, True)

    @property
    def ids(self) -> list[int]:
        """All tokens of a signal."""
        return [self.begin, *self.codes, *([] if self.end == self.begin else [self.end])]

    @property
    def shortest(self) -> int:
        """Tokens that it takes at least."""
        return self.least + 2 - (self.end == self.begin)

    @property
    def books(self) -> int:
        return len(self.codes) // self.size

    def ids_of(self, codes: Sequence[int]) -> list[int]:
        """Ids of one medium's codes, books in turn; without begin and end."""
        return [self.codes[code + i % self.books * self.size] for i, code in enumerate(codes)]

    def book(self, number: int) -> tuple[int, ...]:
        """Ids of one book."""
        return self.codes[number * self.size : (number + 1) * self.size]


@dataclass(frozen=True)
class Grammar:
    """Everything that may stand in an answer.

    Attributes:
        never: ids that text never uses.
        ends: ids that end an answer.
    """

    spans: tuple[SpanIds, ...]
    never: frozenset[int]
    ends: frozenset[int]

    @property
    def wordless(self) -> frozenset[int]:
        """Ids that are no words."""
        return self.never | self.ends

    @staticmethod
    def of(spans: Sequence[SpanIds], ends: frozenset[int], reserved: Sequence[int] = ()) -> Grammar:
        """Tokens of spans are no text, and neither are reserved ones that end no answer."""
        own = {i for span in spans for i in (*span.codes, span.begin, span.end)}
        return Grammar(tuple(spans), frozenset(own | set(reserved)) - ends, ends)

    def span(self, modality: str) -> int | None:
        """Number of the span that the system writes for a modality."""
        return next((n for n, s in enumerate(self.spans) if s.modality == modality and s.written), None)


@dataclass(frozen=True)
class Allowed:
    """What may come next.

    Attributes:
        words, ends: text tokens; ids that end the answer.
        begins: numbers of the spans that may begin.
        span, book: the span that is open and the book its next code is of; -1 outside.
        closes: whether the open span may end.
        only: the one id that may come in a signal; -1 elsewhere.
    """

    words: bool = False
    ends: bool = False
    begins: tuple[int, ...] = ()
    span: int = -1
    book: int = -1
    closes: bool = False
    only: int = -1

    def tokens(self, grammar: Grammar) -> Iterator[int]:
        """Ids that may come next besides words."""
        if self.ends:
            yield from grammar.ends
        yield from (grammar.spans[n].begin for n in self.begins)
        if self.book >= 0:
            yield from grammar.spans[self.span].book(self.book)
        if self.only >= 0:
            yield self.only
        if self.closes:
            yield grammar.spans[self.span].end


@dataclass
class Walk:
    """One answer on its way through a grammar.

    Attributes:
        wanted: modalities that may come; empty is all. Without text the answer is one medium.
        first: modality that it begins with; empty is any.
        open: number of the span that is open; -1 in text.
        codes: of the open span so far.
        over: whether nothing more is wanted.
    """

    grammar: Grammar
    wanted: tuple[str, ...] = ()
    first: str = ""
    open: int = -1
    codes: list[int] = field(default_factory=list)
    over: bool = False
    _begun: bool = False
    _numbers: dict[int, int] = field(default_factory=dict)

    @property
    def modality(self) -> str:
        """Of the next token."""
        return self.grammar.spans[self.open].modality if self.open >= 0 else TEXT

    @property
    def signals(self) -> bool:
        """Whether a signal is open."""
        return self.open >= 0 and self.grammar.spans[self.open].ordered

    def is_signal(self, modality: str) -> bool:
        """Whether a signal stands for media of a modality."""
        number = self.grammar.span(modality)
        return number is not None and self.grammar.spans[number].ordered

    @property
    def speaks(self) -> bool:
        """Whether words are wanted."""
        return not self.wanted or TEXT in self.wanted

    def needs(self) -> int:
        """Tokens that the answer takes at least."""
        forced = [s for s in self._spans() if not self.speaks or s.modality == self.first]
        return min((s.shortest for s in forced), default=1)

    def allowed(self, room: int, *, early: bool = False) -> Allowed:
        """What may come next.

        Args:
            room: tokens that may still come, the next one included.
            early: whether the answer may not end yet.
        """
        if self.open >= 0:
            return self._inside(room)
        begins = tuple(self.grammar.spans.index(s) for s in self._spans() if room >= s.shortest)
        if not self._begun and self.first and self.first != TEXT:
            only = self.grammar.span(self.first)
            return Allowed(begins=tuple(n for n in begins if n == only))
        if not self._begun and self.first == TEXT:
            return Allowed(words=True, ends=not early)
        return Allowed(words=self.speaks, ends=self.speaks and not early, begins=begins)

    def take(self, token: int) -> tuple[str, list[int]] | None:
        """One more token. A medium that it completes: its modality and codes."""
        self._begun = True
        if self.open < 0:
            number = next((n for n, s in enumerate(self.grammar.spans) if s.written and s.begin == token), None)
            if number is not None:
                self.open, self.codes = number, []
                self._numbers = {i: n for n, i in enumerate(self.grammar.spans[number].codes)}
            if number is None or self.grammar.spans[number].shortest > 1:
                return None
        span = self.grammar.spans[self.open]
        if token == span.end:
            self.open, codes, self.over = -1, self.codes, not self.speaks
            return span.modality, codes
        self.codes.append(self._numbers[token] % span.size)
        return None

    def _inside(self, room: int) -> Allowed:
        span = self.grammar.spans[self.open]
        count = len(self.codes)
        if span.ordered:
            return Allowed(span=self.open, only=(*span.codes, span.end)[count])
        whole = count % span.books == 0
        # a further cell needs the codes of all books, and the end
        more = count < span.most and not (whole and room < span.books + 1)
        return Allowed(span=self.open, book=count % span.books if more else -1, closes=whole and count >= span.least)

    def _spans(self) -> Iterator[SpanIds]:
        yield from (s for s in self.grammar.spans if s.written and (not self.wanted or s.modality in self.wanted))
