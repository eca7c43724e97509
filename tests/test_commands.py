"""The commands that run a model, on one run of the smallest size: train, eval, generate, chat, export."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from omniform.cli import main
from omniform.data.document import Document, Media, Text
from omniform.data.easy_vqa import EasyVqa
from omniform.data.files import ChatRecords
from omniform.data.record import record_of, write_record

RECIPE = {
    "system": "llava-1.5", "size": "tiny", "tokenizer": {"train": 512}, "log_every": 2,
    "data": {
        "few": {"kind": "easy-vqa", "split": "train", "limit": 8},
        "test": {"kind": "easy-vqa", "split": "test", "limit": 4},
    },
    "stages": {
        "pretrain": {"data": "few", "learn": {"image.connector": 1e-3}, "batch": 16, "steps": 4},
        "finetune": {"data": "few", "learn": {"image.connector": 3e-3, "backbone": 3e-3}, "batch": 32, "steps": 30},
    },
    "evaluate": {"data": "test"},
}  # fmt: skip
PICTURE = str(EasyVqa("test", limit=1)[0].media[0].source)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run."""
    place = tmp_path_factory.mktemp("runs")
    (place / "small.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main.app(["train", str(place / "small.yaml"), "seed=3", "--out", str(place / "small"), "--device", "cpu"])
    assert end.value.code == 0
    return place / "small"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code: object = 0
        try:
            main.app([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        out = capsys.readouterr()
        return int(str(code or 0)), out.out, out.err

    return command


def test_train_again_says_that_all_is_done(run: Run, folder: Path) -> None:
    code, out, _ = run("train", folder)
    assert code == 0 and "34 steps, " in out.splitlines()[-1]
    assert yaml.safe_load((folder / "recipe.yaml").read_text("utf-8"))["seed"] == 3


def test_train_refuses_another_recipe_in_the_same_place(run: Run, folder: Path) -> None:
    code, _, err = run("train", folder.parent / "small.yaml", "seed=4", "--out", folder)
    assert code == 2 and "is a run of another recipe (seed: 3 before, 4 now" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("evaluate.metric=exact", "no metric named 'exact'; did you mean 'exact_match'?"),
        ("evaluate.metrics=exact_match", "no key in evaluate named 'metrics'; did you mean 'metric'"),
        ("evaluate.limit=some", "evaluate.limit: 'some' is not"),
        ("evaluate={limit: 3}", "the recipe does not say what to evaluate on"),
        ("evaluate={a: {data: test}, b: {data: tset}}", "no dataset in evaluate.b.data named 'tset'"),
        ("evaluate={a: {data: test}, b: {data: test, top_k: x}}", "evaluate.b.top_k: 'x' is not"),
        ("evaluate={a/b: {data: test}}", "evaluate: 'a/b' is used as a directory name"),
    ],
)
def test_mistakes_in_the_evaluation_are_told_before_training(
    run: Run, folder: Path, change: str, sentence: str
) -> None:
    place = folder.parent / "never"
    code, out, err = run("train", folder.parent / "small.yaml", change, "--out", place)
    assert (code, out) == (2, "") and sentence in err and not place.exists()


def test_eval_measures_and_reports(run: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = run("eval", folder, "--report", "--examples", 3, "--out", tmp_path)
    assert code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation.json", "predictions.jsonl", "report.html"]
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text("utf-8").splitlines()]
    test = EasyVqa("test", limit=4)
    assert [line["id"] for line in lines] == [document.id for document in test]
    assert [line["answer"] for line in lines] == [document.info["answer"] for document in test]
    right = sum(line["correct"] for line in lines)
    last = next(line for line in out.splitlines() if line.startswith("all "))
    assert last.split()[1:3] == [str(right), str(len(lines))]
    summary = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert (summary["right"], summary["count"]) == (right, len(lines))
    assert out.count("image") >= 3 and out.splitlines()[-1].endswith("report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<figure") == 12 and "pretrain" in page and "easy-vqa, test" in page and "seed: 3" in page


def test_eval_of_less_and_of_other_data(run: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = run("eval", folder, "--data", "few", "--limit", 5, "--json", "--out", tmp_path)
    assert code == 0 and json.loads(out)["count"] == 5
    assert "easy-vqa/train/" in (tmp_path / "predictions.jsonl").read_text("utf-8")


SEVERAL = "evaluate={one: {data: test, limit: 6}, two: {data: few, limit: 4}}"


def test_eval_of_several(run: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = run("eval", folder, SEVERAL, "--report", "--out", tmp_path)
    assert code == 0 and [line for line in out.splitlines() if line in ("one", "two")] == ["one", "two"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "report.html", "two"]
    counts = {n: json.loads((tmp_path / n / "evaluation.json").read_text("utf-8"))["count"] for n in ("one", "two")}
    assert counts == {"one": 6, "two": 4}
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<h2>one</h2>" in page and "<h2>two</h2>" in page and page.count("<figure") == 10
    code, out, _ = run("eval", folder, SEVERAL, "--only", "two", "--data", "test", "--json", "--out", tmp_path / "b")
    assert code == 0 and {name: found["count"] for name, found in json.loads(out).items()} == {"two": 4}
    assert "easy-vqa/test/" in (tmp_path / "b" / "two" / "predictions.jsonl").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((SEVERAL, "--only", "on"), "no evaluation of the recipe named 'on'; did you mean 'one'?"),
        ((SEVERAL, "--data", "few"), "the recipe has evaluations one, two; say by --only which has another data"),
        (("seed=4",), "seed=4: of a run that is trained, only data and evaluate can be changed"),
        (("--data", "tset"), "named 'tset'; did you mean 'test'?"),
        (("--metric", "exact"), "no metric named 'exact'; did you mean 'exact_match'?"),
    ],
)
def test_eval_of_what_is_not_there(run: Run, folder: Path, words: tuple[str, ...], sentence: str) -> None:
    code, out, err = run("eval", folder, *words)
    assert (code, out) == (2, "") and sentence in err


def test_generate_answers_and_keeps_the_document(run: Run, folder: Path, tmp_path: Path) -> None:
    question = "is there a circle?"
    code, out, _ = run("generate", folder, question, "--image", PICTURE)
    assert code == 0 and out.strip()
    code, as_json, _ = run("generate", folder, question, "--image", PICTURE, "--json", "--out", tmp_path / "doc")
    data = json.loads(as_json)
    assert data["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": out.strip()}]}
    assert _reread(tmp_path / "doc").segments == (
        Media("image", PICTURE),
        Text(question),
        Text(out.strip(), "assistant"),
    )


def _reread(folder: Path) -> Document:
    """What `data.files.ChatRecords` makes of a kept document."""
    record = json.loads((folder / "document.json").read_text("utf-8"))
    (folder / "one.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return ChatRecords(folder / "one.jsonl")[0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--image", "no.png"), "no.png"),
        (("--video", PICTURE), "video"),
        (("--top-p", "3"), "top_p is 3.0, but must be above 0 and at most 1"),
        (("--top-p", "image=3"), "image: top_p is 3.0, but must be above 0 and at most 1"),
        (("--guidance", "image=3"), "no output of llava-1.5 named 'image'"),
        (("--modality", "image"), "no output of llava-1.5 named 'image'"),
    ],
)
def test_generate_tells_what_is_wrong(run: Run, folder: Path, words: tuple[str, ...], sentence: str) -> None:
    code, out, err = run("generate", folder, "what?", *words)
    assert (code, out) == (2, "") and sentence in err and err.count("\n") == 1


def test_chat_goes_on_after_an_error(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [f"/image {PICTURE}", "what shape?", "/imag x", "/image no.png", "is it?", "", "/new", "hello", "/quit"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(typed)))
    code, out, err = run("chat", folder, "--max-new-tokens", 4)
    assert code == 0
    assert "(image, 64 x 64)" in out and out.count("> ") == len(typed)
    assert err.splitlines()[0] == "no command named 'imag'; did you mean 'image'?"
    assert "no.png" in err.splitlines()[1] and len(err.splitlines()) == 2


def test_export_refuses_to_replace_other_files(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x", encoding="utf-8")
    code, _, err = run("export", folder, tmp_path)
    assert code == 2 and "holds other files and no config.json" in err
    assert (tmp_path / "mine.txt").read_text("utf-8") == "x"


# --- records -----------------------------------------------------------------------------------------------------


def test_pictures_in_memory_are_saved_beside_the_record(tmp_path: Path) -> None:
    from PIL import Image

    picture = Image.new("RGB", (3, 2), (9, 8, 7))
    document = Document((Text("see"), Media("image", picture, "assistant"), Media("image", "http://x/y.png")), "d")
    write_record(document, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "document.json").read_text("utf-8"))
    assert record["id"] == "d"
    assert [m["content"] for m in record["messages"]] == [
        [{"type": "text", "text": "see"}],
        [{"type": "image", "path": "image-1.png"}],
        [{"type": "image", "url": "http://x/y.png"}],
    ]
    assert Image.open(tmp_path / "out" / "image-1.png").getpixel((1, 1)) == (9, 8, 7)


def test_sounds_and_videos_in_memory_are_saved_whole(tmp_path: Path) -> None:
    """What diffusion models make, read again by what reads media."""
    import numpy as np
    from PIL import Image

    from omniform.data.media import frames_of
    from omniform.data.sound import samples_of

    frames = [Image.new("RGB", (5, 4), (n, 2 * n, 255 - n)) for n in (3, 30, 90)]
    wave = np.stack([np.linspace(-1, 1, 101), np.zeros(101)], axis=1).astype(np.float32)
    document = Document((Text("see"), Media("video", frames, "assistant"), Media("audio", (wave, 8000), "assistant")))
    kept = write_record(document, tmp_path / "out")
    assert [m.source for m in kept.media] == ["video-1", "audio-2.wav"]
    film = frames_of(Media("video", tmp_path / "out" / "video-1"))
    assert [frame.tobytes() for frame in film] == [frame.tobytes() for frame in frames]
    samples, rate = samples_of(Media("audio", tmp_path / "out" / "audio-2.wav"))
    assert (samples.shape, rate) == ((101, 2), 8000) and np.abs(samples - wave).max() < 1e-4
    assert [m.source for m in _reread(tmp_path / "out").media] == [
        str(tmp_path / "out" / name) for name in ("video-1", "audio-2.wav")
    ]


def test_a_record_never_replaces_other_files(tmp_path: Path) -> None:
    from omniform.data.dataset import DataError

    (tmp_path / "mine.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match=r"holds other files and no document\.json"):
        write_record(Document((Text("a"),)), tmp_path)
    with pytest.raises(DataError, match="image given in memory has no path"):
        record_of(Document((Media("image", b"x"),)))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
