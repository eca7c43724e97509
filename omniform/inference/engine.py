"""Documents in, answers out: the one place where a model generates.

What comes out is a stream of segments: text piece by piece, media when they are complete. Rows of a batch may be in
different modalities at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from omniform.data.document import Document, Segment
from omniform.data.loader import read_views
from omniform.data.packing import pack
from omniform.data.processor import MediaItem, Processor, Sample, TooLong
from omniform.grammar import TEXT as TEXT_MODALITY
from omniform.index import unknown
from omniform.inference.batches import batches
from omniform.inference.guidance import Guide
from omniform.inference.media import MediaWriter
from omniform.inference.memory import Going, Read, memory_of
from omniform.inference.rows import Answer, Ending, Row
from omniform.inference.sampling import Choosing, GenerationConfig, SamplingError, choose
from omniform.inference.voice import Voice
from omniform.inference.writer import TextWriter
from omniform.model import Lmm
from omniform.prompt import TEXT

Progress = Callable[[int, int], None]
"""Called with the documents answered so far, and all."""
GREEDY = GenerationConfig()


class NothingToAnswer(ValueError):
    """A document without a question; the message says what to give."""


class Engine:
    """Answers documents with one model, which it puts into evaluation mode.

    A document is answered after its last turn that is not the assistant's; a true answer that stands at its end (as
    in training and test data) is not read.

    Args:
        positions: of one batch at most, shared media counted once.
    """

    def __init__(self, model: Lmm, processor: Processor, *, positions: int = 4096) -> None:
        self.model = model.eval()
        self.processor = processor
        self.positions = positions
        self._media = cache(self._media_now)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    # -- what users call --

    def generate(
        self, documents: Sequence[Document], config: GenerationConfig = GREEDY, progress: Progress | None = None
    ) -> list[Answer]:
        """The answer of each document, in the order of the documents.

        An answer does not depend on the other documents: documents about the same media are read together, and
        random numbers are the document's own.

        Raises:
            NothingToAnswer: a document is empty.
            SpecError: a modality that the system does not read.
            MediaError: a medium that cannot be read.
            TooLong: a prompt that is longer than the backbone's context.
        """
        answers: dict[int, Answer] = {}
        ending, trees = self.ending(config), self.model.system.backbone.trees
        for batch in batches(documents, lambda i: self.sample(documents[i], i), self.positions, trees=trees):
            samples = [sample for _, sample in batch]
            rows = [self.row(sample, config, ending) for sample in samples]
            for _ in self.decode(rows, self.prefill(samples), config):
                pass
            answers.update({number: row.answer() for (number, _), row in zip(batch, rows, strict=True)})
            if progress:
                progress(len(answers), len(documents))
        return [answers[i] for i in range(len(documents))]

    def stream(self, document: Document, config: GenerationConfig = GREEDY) -> Generator[Segment, None, Answer]:
        """Segments of one answer as they complete: text in pieces of whole characters. Returns the answer.

        Raises: as `generate`, before the first segment.
        """
        sample = self.sample(document)
        row = self.row(sample, config, self.ending(config), pieces=True)
        yield from self.watch(row, self.prefill([sample]), config)
        return row.answer()

    # -- steps --

    def sample(self, document: Document, number: int = 0) -> Sample:
        """The prompt of a document.

        Raises: as `generate`.
        """
        name = f"document {document.id or number}"
        question = document.segments[: len(document.segments) - len(document.answer)]
        if not any(s.role == "user" for s in question):
            raise NothingToAnswer(f"{name} holds no words or media of a user; give it a question or a medium")
        sample = self.processor.sample(Document(question, document.id), answer_next=True)
        context = self.model.system.backbone.context
        if len(sample) > context:
            rows = sum(len(item.at) for item in sample.media)
            raise TooLong(
                f"{name} takes {len(sample)} positions ({rows} of media), but the backbone reads at most {context}; "
                "shorten its text, or give fewer or smaller media"
            )
        return sample

    def ending(self, config: GenerationConfig) -> Ending:
        return Ending.of(self.processor.tokenizer, self.processor.system.prompt, config)

    def row(self, sample: Sample, config: GenerationConfig, ending: Ending, *, pieces: bool = False) -> Row:
        """An answer that has not begun.

        Args:
            pieces: whether someone waits for media before the answer is complete.
        """
        opening = self.processor.system.prompt.answer.split(TEXT)[0]
        writer = TextWriter(self.processor.tokenizer, ending.strings, opening)
        system = self.model.system
        signals = any(system.writes_signal(modality) for modality in system.written)
        room = system.backbone.context - len(sample) + (not signals)  # the last token is read in signals only
        row = Row(sample, config.random(sample.id), writer, ending, min(config.max_new_tokens, room))
        if system.tokenised or system.written:
            media = self._media(ending.ids)
            row.walk, row.render = media.walk(config, row.limit), media.render
            row.draw = partial(media.draw, config=config)
        elif config.modalities or config.first or config.media:
            self._check_words(config)
        row.voices = self._voices(config, pieces)
        return row

    def _voices(self, config: GenerationConfig, pieces: bool) -> tuple[Voice, ...]:
        """What tells the media that are wanted along with the words."""
        model = self.model
        wanted = [m for m in model.system.told_along if not config.modalities or m in config.modalities]
        return tuple(Voice(m, model.part(f"{m}.decoder"), model.codecs[m], pieces=pieces) for m in wanted)

    def _media_now(self, ends: frozenset[int]) -> MediaWriter:
        return MediaWriter(self.model, self.processor, ends)

    def _check_words(self, config: GenerationConfig) -> None:
        """An answer begins with words, and what is told along with them cannot do without."""
        along, slug = self.model.system.told_along, self.model.system.slug
        for modality in (*config.modalities, config.first or TEXT_MODALITY, *config.media):
            if modality not in (TEXT_MODALITY, *along):
                raise unknown(f"output of {slug}", modality, [TEXT_MODALITY, *along])
        alone = config.modalities and TEXT_MODALITY not in config.modalities
        if alone or set(config.media) & set(along) or config.first in along:
            raise SamplingError(
                f"{', '.join(along)} of {slug} is told along with the words of an answer, as these are chosen; ask for "
                "text too, and give it neither a choice of its own (media) nor the first place (first)"
            )

    def load(self, item: MediaItem) -> Tensor:
        return read_views(item, self.model.system)

    @torch.inference_mode()
    def prefill(self, samples: Sequence[Sample]) -> Read:
        """Read the prompts of a batch; samples about the same media are neighbours."""
        backbone = self.model.system.backbone
        memory = memory_of(backbone)
        batch, cache = pack(samples, self.load, trees=backbone.trees).to(self.device), memory.cache()
        with self.model.lasts_only(batch):
            hidden, fused = self.model.read(batch, cache)
        return memory.of(hidden, cache, batch, fused)

    def decode(self, rows: Sequence[Row], read: Read, config: GenerationConfig) -> Iterator[None]:
        """Let rows go on until each is finished; yields after every token."""
        tokens = self._take(rows, read.hidden, config)
        decoding: Going | None = None
        while True:
            yield
            going = [i for i, row in enumerate(rows) if row.finish is None]
            if not going:
                return
            if decoding is None:
                decoding = read.go_on(self.model.backbone, going)
            elif len(going) < len(rows):
                decoding.keep(going)
            if len(going) < len(rows):
                rows, tokens = [rows[i] for i in going], tokens[going]
            tokens = self._take(rows, decoding.step(tokens), config)

    def watch(self, row: Row, read: Read, config: GenerationConfig) -> Iterator[Segment]:
        """Segments of one row as they complete."""
        given = 0
        for _ in self.decode([row], read, config):
            row.read()
            yield from row.segments[given:]
            given = len(row.segments)

    @torch.inference_mode()
    def _take(
        self, rows: Sequence[Row], hidden: Float[Tensor, "rows dim"], config: GenerationConfig
    ) -> Int[Tensor, " rows"]:
        """Choose the next token of each row; rows are equally long. Those that end with a medium get none."""
        for row, state in zip(rows, hidden, strict=True):
            row.reach(state)
        going = [i for i, row in enumerate(rows) if row.finish is None]
        tokens = torch.zeros(len(rows), dtype=torch.long, device=hidden.device)
        if going:
            tokens[going] = self._next([rows[i] for i in going], hidden[going], config)
        return tokens

    def _next(
        self, rows: Sequence[Row], hidden: Float[Tensor, "rows dim"], config: GenerationConfig
    ) -> Int[Tensor, " rows"]:
        logits = self.model.backbone.logits(hidden)
        for guide, members in _guided(rows):
            logits[members] = guide.mix(logits[members])
        tokens, log_probs = self._choose(rows, logits, config)
        for row, token, log_prob, state in zip(rows, tokens.tolist(), log_probs.tolist(), hidden, strict=True):
            row.take(token, log_prob)
            row.hear(state)
        self._guide(rows, config)
        return tokens

    def _choose(
        self, rows: Sequence[Row], logits: Float[Tensor, "rows vocab"], config: GenerationConfig
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
        """The next token of each row, rows of one modality together."""
        early = len(rows[0].tokens) < config.min_new_tokens
        seen = None if config.repetition_penalty == 1 else _seen(rows, logits)
        groups: dict[Choosing, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(config.of(row.walk.modality) if row.walk else config, []).append(i)
        tokens, log_probs = torch.zeros(len(rows), dtype=torch.long), torch.zeros(len(rows))
        tokens, log_probs = tokens.to(logits.device), log_probs.to(logits.device)
        for choosing, members in groups.items():
            walks = [(row, row.walk) for row in (rows[i] for i in members) if row.walk]
            allowed = [walk.allowed(row.room, early=early) for row, walk in walks]
            tokens[members], log_probs[members] = choose(
                logits[members],
                choosing,
                [rows[i].random for i in members],
                seen=None if seen is None else seen[members],
                banned=sorted(rows[0].ending.ids) if early and not allowed else (),
                allowed=self._media(rows[0].ending.ids).masks(allowed).to(logits.device) if allowed else None,
            )
        return tokens, log_probs

    def _guide(self, rows: Sequence[Row], config: GenerationConfig) -> None:
        """Guidance begins with media, goes on with their codes, and ends with them."""
        for guide, members in _guided(rows):
            going = [n for n, i in enumerate(members) if rows[i].writing]
            for i in members:
                rows[i].guide = guide if rows[i].writing else None
            if going:
                guide.step(going, torch.tensor([rows[members[n]].tokens[-1] for n in going], device=self.device))
        begun: dict[str, list[Row]] = {}
        for row in rows:
            if row.writing and row.walk and not row.walk.codes:
                begun.setdefault(row.walk.modality, []).append(row)
        for together in begun.values():
            media, walks = self._media(together[0].ending.ids), [row.walk for row in together if row.walk]
            shared = media.guide(walks, [row.words() for row in together], config, self.prefill)
            for row in together:
                row.guide = shared


def _guided(rows: Sequence[Row]) -> list[tuple[Guide, list[int]]]:
    """Guides, and which rows each leads."""
    found: dict[int, tuple[Guide, list[int]]] = {}
    for i, row in enumerate(rows):
        if row.guide is not None:
            found.setdefault(id(row.guide), (row.guide, []))[1].append(i)
    return list(found.values())


def _seen(rows: Sequence[Row], logits: Tensor) -> Tensor:
    """[rows, vocab] bool: tokens that stand in a row's prompt or answer."""
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        if row.walk is None or row.walk.open < 0:  # codes may come again
            seen[i, torch.from_numpy(row.words())] = True
    return seen.to(logits.device)
