"""The report page: self-contained, well-formed, and what it says."""

from __future__ import annotations

import base64
import io
import re
import wave
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omniform.data.document import Document, Media, Text
from omniform.evaluation.chart import Curve, loss_plot, nice_ticks, smoothed
from omniform.evaluation.evaluation import Evaluation, Prediction
from omniform.evaluation.metrics import Score
from omniform.evaluation.report import Report, Section, chosen, percent
from omniform.evaluation.shown import shown_of, uri_of

VOID = {"meta", "img", "line", "path", "br"}


class Outline(HTMLParser):
    """Tags, attributes and text of a page; unbalanced tags are an error."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.tags if name in (a.get("class") or "").split()]


def evaluation(count: int = 40) -> Evaluation:
    predictions, scores = [], []
    for i in range(count):
        right = i % 5 != 0
        predictions.append(
            Prediction(
                id=str(i), question=f"is {i} < 7 & odd?", prediction="yes" if right else "<b>", answer="yes",
                correct=right, type=("shape", "colour")[i % 2],
            )
        )  # fmt: skip
        scores.append(Score(float(right)))
    return Evaluation("exact_match", tuple(predictions), tuple(scores), 1.5)


def page(**changes: object) -> tuple[str, Outline]:
    """A page of one evaluation, whose section has changes."""
    found = evaluation()
    shown = {i: "data:image/png;base64,AAAA" for i in chosen(found)}
    fields = {"subtitle": "easy", "evaluation": found, "pictures": shown, **changes}
    return page_of(Section(**fields))  # type: ignore[arg-type]


def page_of(*sections: Section) -> tuple[str, Outline]:
    report = Report(
        title="nano & co",
        sections=sections,
        curves=[Curve("align", [1, 2, 3], [3.0, 2.0, 1.0]), Curve("tune", [1, 2], [1.0, 0.5])],
        facts={"Model": {"parameters": "1,234"}},
        texts={"Recipe": "size: nano\n<x>"},
    )
    html = report.html()
    outline = Outline()
    outline.feed(html)
    outline.close()
    assert outline.open == []
    return html, outline


def test_the_page_needs_nothing_from_outside() -> None:
    html, outline = page()
    links = [a[key] for _, a in outline.tags for key in ("src", "href") if key in a]
    assert links and all(str(link).startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"https?://|@import|url\(", html)
    assert not {tag for tag, _ in outline.tags} & {"script", "link", "iframe", "object"}


def test_the_page_fits_phones_and_both_themes() -> None:
    html, outline = page()
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in outline.tags
    assert "@media (prefers-color-scheme: dark)" in html
    assert "@media (max-width: 34rem)" in html


def test_the_headline() -> None:
    _, outline = page()
    text = " ".join(outline.words)
    assert "80.0 %" in text and "32 of 40 questions right (exact match)" in text
    assert "95 % interval 65.2 % to 89.5 %" in text
    assert "nano & co" in text


def test_a_bar_for_each_type_with_its_counts() -> None:
    _, outline = page()
    widths = [a["style"] for tag, a in outline.tags if tag == "i"]
    assert widths == ["width:80.00%", "width:80.00%"]
    text = " ".join(outline.words)
    assert text.count("16 / 20") == 2 and "colour" in text and "shape" in text


def test_wrong_answers_come_first_and_are_marked_in_words() -> None:
    _, outline = page()
    figures = [str(a["class"]) for tag, a in outline.tags if tag == "figure"]
    assert figures == ["wrong"] * 4 + ["right"] * 8
    assert outline.words.count("✗ wrong") == 4 and outline.words.count("✓ right") == 8
    assert outline.words.count("truth: yes") == 4


def test_what_models_say_is_escaped() -> None:
    html, outline = page()
    assert "<b>" in outline.words and sum(w.endswith(" < 7 & odd?") for w in outline.words) == 12
    assert "&lt;b&gt;" in html and "size: nano\n&lt;x&gt;" in html


def test_chosen_spreads_over_types() -> None:
    found = evaluation(200)
    numbers = chosen(found)
    assert len(numbers) == len(set(numbers)) == 12
    assert [found.predictions[n].correct for n in numbers] == [False] * 4 + [True] * 8
    kinds = [found.predictions[n].type for n in numbers]
    assert kinds.count("shape") == kinds.count("colour") == 6


@pytest.mark.parametrize(("right", "wrong", "shown"), [(20, 0, 12), (0, 20, 12), (2, 20, 12), (3, 2, 5), (20, 1, 12)])
def test_chosen_takes_what_there_is(right: int, wrong: int, shown: int) -> None:
    marks = [True] * right + [False] * wrong
    rows = tuple(Prediction(id="", question="", prediction="", answer="", correct=m, type="") for m in marks)
    numbers = chosen(Evaluation("exact_match", rows, tuple(Score(float(m)) for m in marks)))
    assert len(numbers) == len(set(numbers)) == shown
    assert [marks[n] for n in numbers] == sorted(marks[n] for n in numbers)


def test_a_perfect_run_shows_no_wrong_answers() -> None:
    rows = evaluation().predictions
    right = tuple(p for p in rows if p.correct)
    _, outline = page(evaluation=Evaluation("exact_match", right, (Score(1.0),) * len(right)), pictures={})
    assert "100.0 %" in " ".join(outline.words)
    assert not [tag for tag, _ in outline.tags if tag == "figure"]


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0.0 %"), (0.9996, "99.9 %"), (0.95, "95.0 %"), (1.0, "100.0 %"), (1 / 3, "33.3 %")]
)
def test_percent_never_rounds_up_to_all(share: float, text: str) -> None:
    assert percent(share) == text


# --- pictures ----------------------------------------------------------------------------------------------------


def test_pictures_are_small_and_whole(tmp_path: Path) -> None:
    Image.new("RGB", (1000, 500), (200, 10, 20)).save(tmp_path / "a.png")
    uri = shown_of(Document((Media("image", tmp_path / "a.png"), Text("?"))))
    assert uri is not None
    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert (shown.size, shown.getpixel((5, 5))) == ((240, 120), (200, 10, 20))


def test_small_pictures_keep_their_size_and_text_has_none() -> None:
    uri = shown_of(Document((Media("image", Image.new("RGB", (64, 32))),)))
    assert uri is not None
    assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == (64, 32)
    assert shown_of(Document((Text("?"),))) is None


def test_videos_move_and_sounds_play() -> None:
    frames = [Image.new("RGB", (300, 150), (10 * i, 0, 0)) for i in range(20)]
    uri = shown_of(Document((Text("look"), Media("video", frames))))
    assert uri is not None and uri.startswith("data:image/webp;base64,")
    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert (shown.n_frames, shown.size) == (16, (240, 120))  # type: ignore[attr-defined]
    stereo = np.stack([np.full(8000, 0.5), np.full(8000, 0.25)], 1)
    sound = uri_of(Media("audio", (stereo, 8000)))
    assert sound.startswith("data:audio/wav;base64,")
    with wave.open(io.BytesIO(base64.b64decode(sound.partition(",")[2]))) as file:
        assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (8000, 8000, 1)
        assert np.frombuffer(file.readframes(1), np.int16)[0] == round(0.375 * 32767)


def test_a_videos_own_rate_is_kept() -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(4)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=200)
    uri = uri_of(Media("video", file.getvalue()))
    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    shown.load()
    assert (shown.n_frames, shown.info["duration"]) == (4, 200)  # type: ignore[attr-defined]


def test_what_the_model_says_or_paints_is_not_shown_as_given() -> None:
    said = Media("image", Image.new("RGB", (4, 4)), "assistant")
    assert shown_of(Document((Text("paint"), said))) is None


# --- errors ------------------------------------------------------------------------------------------------------


def test_errors_are_told_as_errors() -> None:
    rows = evaluation(10).predictions
    scores = tuple(Score(0.0 if p.correct else 2.0, 4.0, True) for p in rows)
    html, outline = page(
        evaluation=Evaluation("word_error_rate", rows, scores), pictures={0: "data:audio/wav;base64,AA"}
    )
    text = " ".join(outline.words)
    assert "10.0 %" in text and "word error rate; 8 of 10 answers without an error" in text
    assert "commonest" not in text and "a full bar is one error a word" in text
    assert [a["style"] for tag, a in outline.tags if tag == "i"] == ["width:10.00%", "width:10.00%"]
    assert [a["src"] for tag, a in outline.tags if tag == "audio"] == ["data:audio/wav;base64,AA"]
    assert "<img" not in html


def test_cards_hold_what_was_said_beside_words() -> None:
    uris = ["data:audio/wav;base64,BB", "data:image/png;base64,CC"]
    _, outline = page(pictures={0: "", 1: ""}, said={0: uris})
    assert [a["src"] for _, a in outline.tags if "src" in a] == uris


# --- several evaluations, judges ---------------------------------------------------------------------------------


def test_several_evaluations_stand_on_one_page_under_their_names() -> None:
    told, drawn = Section(evaluation=evaluation(), name="told"), Section(evaluation=evaluation(10), name="drawn & so")
    _, outline = page_of(told, drawn)
    titles = [word for word in outline.words if "told" in word or "drawn" in word]
    assert titles == ["told", "told, by type of question", "drawn & so", "drawn & so, by type of question"]
    assert len(outline.of_class("headline")) == 2 and outline.words.count("nano & co") == 1
    assert outline.words.count("80.0 %") == 2 and "8 of 10 questions right (exact match)" in outline.words


def test_the_judge_is_measured_beside_what_it_judges() -> None:
    found, all_right = evaluation(20), (Score(1.0),) * 15 + (Score(0.0),) * 5
    real = Evaluation("exact_match", tuple(replace(p, correct=bool(s.earned)) for p, s in zip(
        found.predictions, all_right, strict=True)), all_right)  # fmt: skip
    _, outline = page(evaluation=replace(found, real=real), pictures={})
    text = " ".join(outline.words)
    assert "judged by a model; of the true media it makes 75.0 % (15 of 20 right)" in text
    assert [a["style"] for tag, a in outline.tags if tag == "b"] == ["left:70.00%", "left:80.00%"]
    assert "the judge on true media of that type" in text and "saying the commonest answer of that type" not in text


# --- loss --------------------------------------------------------------------------------------------------------


def test_ticks_are_round() -> None:
    assert nice_ticks(1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert nice_ticks(6.3) == [0, 2, 4, 6]
    assert nice_ticks(0.034) == pytest.approx([0, 0.01, 0.02, 0.03])
    assert nice_ticks(1e-9)[-1] == pytest.approx(1e-9)


def test_smoothing_is_unbiased_at_the_start() -> None:
    assert smoothed([2.0, 2.0, 2.0], 10) == pytest.approx([2.0, 2.0, 2.0])
    assert smoothed([0.0, 1.0], 2) == pytest.approx([0.0, 2 / 3])
    assert smoothed([5.0, 1.0], 1) == [5.0, 1.0]


def test_stages_follow_each_other_on_one_axis() -> None:
    html = loss_plot([Curve("align", [10, 20], [4.0, 2.0]), Curve("tune", [10, 60], [2.0, 1.0])])
    paths = re.findall(r'class="smooth" d="([^"]*)"', html)
    assert paths == ["M125.0,0.0L250.0,500.0", "M375.0,500.0L1000.0,750.0"]
    assert '<line class="edge" x1="250.0"' in html
    assert "align: from 4 to 2 in 20 steps." in html
    assert re.findall(r">([\d,]+(?: steps)?)</span></?", html)[-1] == "80 steps"


def test_losses_that_are_no_numbers_are_left_out() -> None:
    html = loss_plot([Curve("a", [1, 2, 3], [2.0, float("nan"), 1.0]), Curve("b", [], [])])
    assert "nan" not in html and ">b<" not in html
    assert "No losses were recorded" in loss_plot([Curve("b", [], [])])


def test_long_curves_are_thinned() -> None:
    html = loss_plot([Curve("a", list(range(1, 10001)), [1.0] * 10000)])
    assert all(500 < path.count("L") < 700 for path in re.findall(r' d="([^"]*)"', html))
