"""Media in answers, judged by a model that reads them: what it writes down is compared in the answer's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from omniform.data.document import Document, Media, Text
from omniform.evaluation.evaluate import Answering, Progress
from omniform.inference.rows import Answer
from omniform.inference.sampling import GenerationConfig


@dataclass(frozen=True)
class Judged:
    """An engine whose media a judge puts into words; its own words beside them are dropped.

    Attributes:
        question: what the judge is asked of each answer's media.
        length: tokens of the judge's answer at most.
    """

    engine: Answering
    judge: Answering
    question: str
    length: int = 32

    def generate(
        self, documents: Sequence[Document], config: GenerationConfig | None = None, progress: Progress | None = None
    ) -> list[Answer]:
        """The engine's answers, with the judge's words after their media; without media there are no words."""
        answers = self.engine.generate(documents, config or GenerationConfig(), progress)
        said = [tuple(s for s in answer.segments if isinstance(s, Media)) for answer in answers]
        asked = {n: self._asked(n, media) for n, media in enumerate(said) if media}
        heard = self.judge.generate(list(asked.values()), GenerationConfig(max_new_tokens=self.length))
        words = {n: answer.text for n, answer in zip(asked, heard, strict=True)}
        return [
            replace(answer, segments=(*media, Text(words.get(n, ""), "assistant")))
            for n, (answer, media) in enumerate(zip(answers, said, strict=True))
        ]

    def _asked(self, number: int, media: Sequence[Media]) -> Document:
        shown = (Media(medium.modality, medium.source) for medium in media)
        return Document((*shown, Text(self.question)), str(number))


@dataclass(frozen=True)
class Real:
    """Answers every document with the true media at its end: judged, they tell how good the judge is."""

    def generate(
        self, documents: Sequence[Document], config: GenerationConfig | None = None, progress: Progress | None = None
    ) -> list[Answer]:
        """The media that the assistant gives at each document's end."""
        return [Answer(true_media(document), (), (), "stop") for document in documents]


def true_media(document: Document) -> tuple[Media, ...]:
    """What the assistant gives at a document's end beside words."""
    return tuple(segment for segment in document.answer if isinstance(segment, Media))
