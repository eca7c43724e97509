"""Exact match, tallies and predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from omniform.data.dataset import DataError, Documents
from omniform.data.document import Document, Media, Text
from omniform.evaluation import metrics
from omniform.evaluation.evaluate import evaluate, question_of, true_answer
from omniform.evaluation.evaluation import Evaluation, Prediction, Tally
from omniform.evaluation.judge import Judged
from omniform.evaluation.measure import measure
from omniform.evaluation.metrics import Score
from omniform.evaluation.metrics.exact_match import normalise
from omniform.evaluation.runs import EvaluationSettings, RunError
from omniform.index import UnknownName
from omniform.inference.rows import Answer
from omniform.inference.sampling import GenerationConfig, MediaSampling


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("yes", "yes", True),
        ("Yes.", "yes", True),
        (" YES . ", "yes", True),
        ("yes\n", "Yes", True),
        ("yes..", "yes", False),  # one period only
        ("the yes", "yes", False),
        ("", "no", False),
        ("", ".", True),
        ("red circle", "red  circle", False),  # white space inside counts
        ("Straße", "STRASSE", True),
    ],
)
def test_exact_match(prediction: str, answer: str, right: bool) -> None:
    assert metrics.metric("exact_match")(prediction, answer) == Score(float(right), 1.0)


def test_normalise() -> None:
    assert [normalise(t) for t in (" A b. ", "a.b", ".", "A ..")] == ["a b", "a.b", "", "a ."]


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("Food & drink, dishware: fork", True),
        ("food & drink", True),
        ("flags, flag: chequered flag", False),
        ("", False),
    ],
)
def test_first_part(prediction: str, right: bool) -> None:
    truth = "food & drink, food fruit: grapes"
    assert metrics.metric("first_part")(prediction, truth) == Score(float(right), 1.0)


def test_metrics_are_found_by_name() -> None:
    assert "exact_match" in metrics.names()
    with pytest.raises(UnknownName, match="did you mean 'exact_match'"):
        metrics.metric("exactmatch")


def test_scores_add_up_to_a_ratio() -> None:
    total = Score(1.0, 2.0) + Score(3.0, 4.0)
    assert (total, total.ratio, total.full, Score(0.0, 0.0).ratio) == (Score(4.0, 6.0), 4 / 6, False, 0.0)


class Parrot:
    """Answers with fixed words, and remembers what it was asked."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = answers
        self.asked: list[Document] = []

    def generate(self, documents: Sequence[Document], config: GenerationConfig, progress: Any = None) -> list[Answer]:
        self.asked += documents
        if progress:
            progress(len(documents), len(documents))
        return [Answer((Text(a, "assistant"),), (1,), (0.0,), "stop") for a in self.answers[: len(documents)]]


def documents() -> Documents:
    rows = [("what colour?", "red", "colour"), ("what colour?", "blue", "colour"), ("is it?", "yes", "yes/no")]
    made = [Document((Text(q), Text(a, "assistant")), f"d/{i}", {"type": kind}) for i, (q, a, kind) in enumerate(rows)]
    return Documents([*made, Document((Text("what?"), Text("no", "assistant")))])


def test_evaluate() -> None:
    parrot, seen = Parrot(["Red.", "green", "yes", "no"]), []
    found = evaluate(parrot, documents(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 4)] and len(parrot.asked) == 4
    assert found.predictions[0] == Prediction(
        id="d/0", question="what colour?", prediction="Red.", answer="red", correct=True, type="colour"
    )
    assert (found.predictions[3].id, found.predictions[3].type) == ("3", "")
    assert [p.correct for p in found.predictions] == [True, False, True, True]
    assert (found.overall.score, found.overall.right, found.overall.count) == (Score(3.0, 4.0), 3, 4)
    assert {kind: (t.right, t.count) for kind, t in found.by_type.items()} == {
        "": (1, 1),
        "colour": (1, 2),
        "yes/no": (1, 1),
    }
    assert found.by_type["colour"].commonest == 0.5
    assert found.seconds >= 0


def test_limit_takes_the_first() -> None:
    found = evaluate(Parrot(["red", "blue"]), documents(), limit=2)
    assert [p.id for p in found.predictions] == ["d/0", "d/1"]
    assert found.overall.right == 2


def test_a_metric_may_give_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from omniform.evaluation.metrics import exact_match

    monkeypatch.setattr(exact_match, "score", lambda prediction, answer: Score(len(prediction), len(answer)))
    found = evaluate(Parrot(["re", "blue", "yes", "n"]), documents())
    assert found.overall.score == Score(10.0, 12.0)
    assert [p.correct for p in found.predictions] == [False, True, True, False]


def test_data_without_answers_is_refused() -> None:
    with pytest.raises(DataError, match=r"document d/7 ends without an answer"):
        evaluate(Parrot([""]), Documents([Document((Text("why?"),), "d/7")]))
    with pytest.raises(DataError, match="holds no documents"):
        evaluate(Parrot([]), Documents([]))


def test_the_last_exchange_counts() -> None:
    turns = (Text("a"), Text("b", "assistant"), Text(" c "), Text("d", "assistant"), Text("e", "assistant"))
    assert (true_answer(Document(turns)), question_of(Document(turns))) == ("de", "c")
    with pytest.raises(DataError, match=r"\(unnamed\)"):
        true_answer(Document(turns[:3]))


def test_wilson_interval() -> None:
    low, high = Tally(Score(8.0, 10.0), 10, 8, 0.5).interval
    assert (low, high) == (pytest.approx(0.490162, abs=1e-5), pytest.approx(0.943318, abs=1e-5))
    assert Tally(Score(10.0, 10.0), 10, 10, 0.5).interval[1] == pytest.approx(1.0)


def test_files(tmp_path: Path) -> None:
    found = evaluate(Parrot(["Red.", "green", "yes", "no"]), documents())
    found.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation.json", "predictions.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert [set(line) for line in lines] == [{"id", "question", "prediction", "answer", "correct", "type"}] * 4
    assert lines[1] == {
        "id": "d/1", "question": "what colour?", "prediction": "green", "answer": "blue", "correct": False,
        "type": "colour",
    }  # fmt: skip
    summary = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert (summary["metric"], summary["score"], summary["right"], summary["count"]) == ("exact_match", 0.75, 3, 4)
    assert summary["by_type"]["colour"]["score"] == 0.5


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evaluate(Parrot(["Red.", "green", "yes", "no"]), documents())
    found.save(tmp_path)
    before = (tmp_path / "predictions.jsonl").read_text("utf-8")
    other = Evaluation("exact_match", found.predictions[:1], found.scores[:1])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        other.save(tmp_path)
    assert (tmp_path / "predictions.jsonl").read_text("utf-8") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation.json", "predictions.jsonl"]


def test_the_commonest_answer_is_what_the_metric_compares() -> None:
    rows = ("flags, flag: france", "flags, flag: peru", "objects, tool: saw")
    data = Documents([Document((Text("?"), Text(row, "assistant"))) for row in rows])
    answers = ["Flags.", "food", ""]
    assert evaluate(Parrot(answers), data, metric_name="first_part").overall.commonest == pytest.approx(2 / 3)
    assert evaluate(Parrot(answers), data).overall.commonest == pytest.approx(1 / 3)
    assert all(metrics.compared(name)(" Flags. ") == "flags" for name in metrics.names())


# --- judges ------------------------------------------------------------------------------------------------------


class Speaker(Parrot):
    """Answers with sounds, and words beside them; nothing at an empty word."""

    def generate(self, documents: Sequence[Document], config: GenerationConfig, progress: Any = None) -> list[Answer]:
        self.config = config
        said = super().generate(documents, config, progress)
        sounds = [(Media("audio", b"RIFF" + a.text.encode(), "assistant"),) if a.text else () for a in said]
        return [Answer((*m, *a.segments), a.tokens, a.log_probs, a.finish) for m, a in zip(sounds, said, strict=True)]


def spoken(*words: str) -> Documents:
    rows = [(Text(f"say {w}"), Media("audio", f"{w}.wav", "assistant")) for w in words]
    return Documents([Document(r, info={"answer": w}) for r, w in zip(rows, words, strict=True)])


def test_a_judge_puts_media_into_words() -> None:
    speaker, judge = Speaker(["a", "", "c"]), Parrot(["one two", "four"])
    found = evaluate(
        Judged(speaker, judge, "what is said?", 7), spoken("one two", "two", "three four"),
        metric_name="word_error_rate", config=GenerationConfig(max_new_tokens=3, modalities=("audio",)),
    )  # fmt: skip
    assert [(p.prediction, p.answer) for p in found.predictions] == [
        ("one two", "one two"), ("", "two"), ("four", "three four"),
    ]  # fmt: skip
    assert found.overall.score == Score(2.0, 5.0, True)
    assert [[m.source for m in media] for media in found.media] == [[b"RIFFa"], [], [b"RIFFc"]]
    asked = judge.asked
    assert [d.segments for d in asked] == [
        (Media("audio", b"RIFFa"), Text("what is said?")), (Media("audio", b"RIFFc"), Text("what is said?")),
    ]  # fmt: skip
    assert speaker.config.modalities == ("audio",)


def test_answers_without_words_need_words_to_compare_with() -> None:
    silent = Document((Text("say one"), Media("audio", "one.wav", "assistant")), "s")
    with pytest.raises(DataError, match="document s ends without an answer"):
        true_answer(silent)
    assert true_answer(spoken("one")[0]) == "one"


def test_a_judge_is_measured_on_the_true_media() -> None:
    settings = EvaluationSettings("test", write="audio", judge="runs/hear", question="what?", limit=2)
    speaker, judge = Speaker(["a", "b"]), Parrot(["one", "one"])
    found = measure("said", settings, spoken("one", "two", "three"), speaker, judge).found
    assert [(p.prediction, p.answer) for p in found.predictions] == [("one", "one"), ("one", "two")]
    assert found.real is not None and found.real.overall.score == Score(1.0, 2.0) and found.real.media == ()
    assert [d.segments[0].source for d in judge.asked] == [b"RIFFa", b"RIFFb", "one.wav", "two.wav"]  # type: ignore
    assert all(d.segments[0].role == "user" for d in judge.asked)
    assert found.summary()["judge_of_real_media"]["score"] == 0.5


def test_a_judge_is_not_measured_where_true_media_are_missing() -> None:
    settings = EvaluationSettings("test", judge="runs/hear", question="what?")
    words = Documents([*spoken("one").items, Document((Text("say two"), Text("two", "assistant")))])
    found = measure("", settings, words, Speaker(["a", "b"]), Parrot(["one", "two"])).found
    assert found.real is None and found.overall.right == 2 and "judge_of_real_media" not in found.summary()
    assert measure("", EvaluationSettings("test"), words, Parrot(["one", "two"])).found.real is None


# --- settings ----------------------------------------------------------------------------------------------------


def test_settings_of_a_recipe() -> None:
    settings = EvaluationSettings.of(
        {"data": "test", "write": "audio", "judge": "runs/hear", "question": "what?", "max_new_tokens": 9}
    )
    config = settings.generation()
    assert (config.max_new_tokens, config.modalities, config.first) == (9, ("audio",), "audio")
    assert EvaluationSettings.of({"data": "test"}).generation() == GenerationConfig(max_new_tokens=32)
    with pytest.raises(RunError, match="add a `question`"):
        EvaluationSettings.of({"data": "test", "judge": "runs/hear"})


def test_sampling_is_a_setting() -> None:
    image = {"top_k": 50, "guidance": [3, 1.5]}
    settings = EvaluationSettings.of({"data": "test", "temperature": 0.5, "top_p": 0.9, "media": {"image": image}})
    config = settings.generation()
    assert (config.temperature, config.top_k, config.top_p) == (0.5, 0, 0.9)
    assert config.of("image") == MediaSampling(temperature=0.5, top_k=50, top_p=0.9, guidance=(3.0, 1.5))
    assert config.of("audio") is config


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"temperature": -1.0}, "temperature is -1.0, but must be 0"),
        ({"media": {"image": {"topk": 3}}}, r"no key in evaluate\.media\.image named 'topk'; did you mean 'top_k' or"),
        ({"media": {"image": {"guidance": ["3"]}}}, r"evaluate\.media\.image\.guidance: '3' is not a number"),
        ({"top_k": 0.5}, r"evaluate\.top_k: 0.5 is not a whole number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, UnknownName), match=error):
        EvaluationSettings.of({"data": "test", **given})
