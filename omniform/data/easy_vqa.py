"""easy-VQA: pictures of one shape, and questions about them (package `easy-vqa`, github.com/vzhou842/easy-VQA)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from omniform.data.dataset import DataError
from omniform.data.document import Document, Media, Text
from omniform.frozen import FrozenMap
from omniform.index import unknown


@dataclass(frozen=True)
class EasyVqa:
    """easy-VQA: 5,000 pictures of one shape each, 48,248 questions, 13 answers (package `easy-vqa`).

    Attributes:
        split: "train" or "test".
        form: "qa", one document a question; "captions", such as "a blue triangle", one document for each picture
            whose questions tell both; or "drawings", the same the other way round: the picture is the answer.
        limit: at most so many pictures.
    """

    split: str
    form: str = "qa"
    limit: int | None = None
    _documents: list[Document] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            import easy_vqa
        except ImportError as error:
            raise DataError("dataset easy-vqa: its package is not installed; run `pip install easy-vqa`") from error
        if self.split not in ("train", "test"):
            raise unknown("split of easy-vqa", self.split, ("train", "test"))
        if self.form not in FORMS:
            raise unknown("form of easy-vqa", self.form, FORMS)
        read = {
            "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
            "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
        }[self.split]
        (questions, answers, numbers), paths = read[0](), read[1]()
        kept = set(list(paths)[: self.limit])
        rows = [(q, a, n) for q, a, n in zip(questions, answers, numbers, strict=True) if n in kept]
        make = FORMS[self.form]
        object.__setattr__(self, "_documents", list(make(rows, paths, self.split)))

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> Document:
        return self._documents[index]

    def group(self, index: int) -> Hashable:
        return self._documents[index].media[0].key


COLOURS = ("red", "green", "blue", "black", "gray", "teal", "brown", "yellow")
SHAPES = ("circle", "triangle", "rectangle")


def question_type(question: str) -> str:
    """Kind of a question: "shape", "colour", "yes/no: shape" or "yes/no: colour"."""
    words = question.rstrip("?").split()
    if words[0] == "what":
        return "colour" if "color" in words else "shape"
    return "yes/no: colour" if any(w in COLOURS for w in words) else "yes/no: shape"


def _questions(rows: Sequence[tuple[str, str, int]], paths: Mapping[int, str], split: str) -> Iterator[Document]:
    media = {n: Media("image", str(p)) for n, p in paths.items()}
    for number, (question, answer, image) in enumerate(rows):
        info: FrozenMap[str, str] = FrozenMap(type=question_type(question), answer=answer)
        yield Document((media[image], Text(question), Text(answer, "assistant")), f"easy-vqa/{split}/{number}", info)


def _captions(rows: Sequence[tuple[str, str, int]], paths: Mapping[int, str], split: str) -> Iterator[Document]:
    """A caption for each picture whose questions tell both its colour and its shape."""
    told: dict[int, set[str]] = {}
    for question, answer, image in rows:
        told.setdefault(image, set()).update(_told(question, answer))
    for image, words in told.items():
        colour, shape = words.intersection(COLOURS), words.intersection(SHAPES)
        if colour and shape:
            caption = Text(f"a {min(colour)} {min(shape)}", "assistant")
            yield Document((Media("image", str(paths[image])), caption), f"easy-vqa/{split}/image-{image}")


def _drawings(rows: Sequence[tuple[str, str, int]], paths: Mapping[int, str], split: str) -> Iterator[Document]:
    """The captions as what is asked for."""
    for document in _captions(rows, paths, split):
        picture, caption = document.segments
        yield Document((replace(caption, role="user"), replace(picture, role="assistant")), document.id)


def _told(question: str, answer: str) -> set[str]:
    """Colours and shapes that a question with its answer says the picture shows."""
    words = question.rstrip("?").split()
    denied = "no" in words or "not" in words
    if answer in ("yes", "no"):
        return set(words) if (answer == "yes") != denied else set()
    return {answer, *words}


FORMS: Mapping[str, Callable[..., Iterator[Document]]] = FrozenMap(
    qa=_questions, captions=_captions, drawings=_drawings
)
