"""The command line: what it prints, how it fails, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.main import get_command

import omniform
from omniform import index, survey
from omniform.cli import errors, main
from omniform.cli.output import count, print_pairs, print_table
from omniform.verify.stamps import STAMPS, recorded, text_of

ROOT = Path(__file__).parents[1]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; gives (exit code, stdout, stderr)."""

    def command(*words: str) -> tuple[int, str, str]:
        try:
            main.app(list(words))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        else:
            code = 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return command


# --- imports -----------------------------------------------------------------------------------------------------

LIGHT = [
    ["--help"], ["--version"], ["list"], ["list", "--json"], ["list", "--here", "--modality", "image"],
    ["cost", "llava-1.5", "--image", "640x480"], ["cost", "llava-1.5", "--json"],
    ["show", "llava-1.5"], ["show", "llava-1.5:13b"], ["show", "flamingo"], ["show", "llava-1.5", "--json"],
    *[[name, "--help"] for name in main.commands()],
]  # fmt: skip


def test_light_commands_load_no_torch() -> None:
    code = (
        "import contextlib, io, sys\nfrom omniform.cli.main import app\n"
        f"for words in {LIGHT!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        try: app(words)\n"
        "        except SystemExit as end: assert not end.code, (words, end.code)\n"
        "    assert len(out.getvalue()) > 5, words\n"
        "print(sorted(m for m in ('torch', 'transformers', 'numpy', 'rich', 'PIL') if m in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


# --- help and errors ---------------------------------------------------------------------------------------------


def test_help_lists_every_command_with_a_sentence(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.partition("Commands:")[2].splitlines() if line}
    assert list(lines) == main.commands()
    assert all(text and not text.endswith("...") for text in lines.values())


def test_every_argument_and_option_is_explained() -> None:
    groups = [("omniform", get_command(main.build()))]
    silent, count = [], 0
    while groups:
        name, group = groups.pop()
        groups += [(f"{name} {word}", command) for word, command in getattr(group, "commands", {}).items()]
        shown = [parameter for parameter in group.params if parameter.name != "help"]
        silent += [f"{name} {parameter.name}" for parameter in shown if not getattr(parameter, "help", None)]
        count += len(shown)
    assert silent == [] and count > 60


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"omniform {omniform.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("lst",), "No such command 'lst'. Did you mean 'list'?"),
        (("list", "--jsn"), "No such option: --jsn"),
        (("list", "--modality", "vidoe"), "omniform: no modality named 'vidoe'; did you mean 'video'?"),
        (("list", "--input-type", "C"), "omniform: no input type named 'C'"),
        (("show", "lava-1.5"), "omniform: no system named 'lava-1.5'; did you mean 'llava-1.5'"),
        (("show", "llava-1.5:13"), "omniform: no variant of llava-1.5 named '13'; did you mean '13b'?"),
        (("verify",), "name one system, or give --all"),
        (("verify", "llava-1.5", "--all"), "name one system, or give --all"),
        (("verify", "llava-1.5", "--record", "--stamps", "row"), "--record keeps all six stamps of a system"),
        (("verify", "llava-1.5", "--stamps", "rwo"), "omniform: no stamp named 'rwo'; did you mean 'row'?"),
    ],
)
def test_user_errors_are_one_sentence(run: Run, words: Sequence[str], sentence: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert sentence in err and "Traceback" not in err
    assert err.splitlines()[-1].startswith(("omniform: ", "Error: "))


def test_files_that_are_not_there(run: Run, tmp_path: Path) -> None:
    code, _, err = run("train", str(tmp_path / "no.yaml"))
    assert code == 2 and err.startswith(f"omniform: {tmp_path}/no.yaml: ") and err.count("\n") == 1
    code, _, err = run("eval", str(tmp_path / "runs"))
    assert (code, err.count("\n")) == (2, 1) and "is not a run: it has no recipe.yaml" in err
    code, _, err = run("generate", str(tmp_path), "what?")
    assert (code, err.count("\n")) == (2, 1) and "config.json" in err


def test_debug_shows_the_traceback(run: Run) -> None:
    for words in (("--debug", "show", "lava-1.5"), ("show", "lava-1.5", "--debug")):
        with pytest.raises(index.UnknownName):
            run(*words)


def test_defects_are_told_from_user_errors(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        print(list(range(3))[len("abc")])
    except IndexError as error:
        assert errors.explain(error) == 70
    told = capsys.readouterr().err
    assert told.startswith("omniform: unexpected IndexError in test_cli.py:") and told.count("\n") == 1
    kept = Path(told.partition("traceback is in ")[2].strip().rstrip(")"))
    assert "IndexError: list index out of range" in kept.read_text("utf-8")
    kept.unlink()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "a/b.png"), "a/b.png: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("plain"), "plain"),
        (omniform.SpecError("two\n  lines"), "two lines"),
        (index.UnknownName(), "UnknownName"),
    ],
)
def test_sentences(error: BaseException, words: str) -> None:
    assert errors.is_expected(error)
    assert errors.sentence(error) == words


def test_errors_of_others_are_not_expected() -> None:
    assert not errors.is_expected(ValueError("x")) and not errors.is_expected(KeyError("x"))


# --- list and show -----------------------------------------------------------------------------------------------


def test_list_holds_the_whole_survey(run: Run) -> None:
    code, out, _ = run("list")
    lines = out.splitlines()
    assert code == 0 and lines[0].split()[:3] == ["system", "type", "date"]
    slugs = [line.split()[0] for line in lines[1:-2]]
    assert slugs[:99] == [row.slug for row in survey.rows()]
    here = len(index.names("systems"))
    assert lines[-1].startswith(f"{len(slugs)} systems, {here} written down here")
    marked = [line.split()[0] for line in lines[1:-2] if line.endswith("  .")]
    assert len(marked) == len(slugs) - here and "llava-1.5" not in marked


def test_list_as_json_and_filters(run: Run) -> None:
    code, out, _ = run("list", "--backbone", "vicuna 1.5", "--json")
    found = json.loads(out)
    assert code == 0 and "llava-1.5" in [e["slug"] for e in found]
    assert all("vicuna15" in e["backbone"].lower().replace(" ", "").replace("-", "").replace(".", "") for e in found)
    own = next(e for e in found if e["slug"] == "llava-1.5")
    assert own["here"] is True and own["modalities"] == ["image", "text"] and own["type"] == "A1"
    everything = json.loads(run("list", "--json")[1])
    assert {row.slug for row in survey.rows()} <= {e["slug"] for e in everything} and len(survey.rows()) == 99
    assert all(bool(e["stamps"]) is e["here"] for e in everything)
    _, out, _ = run("list", "--here", "--json")
    assert {e["slug"] for e in json.loads(out)} == set(index.names("systems"))
    _, out, _ = run("list", "--input-type", "B", "--output-type", "3", "--json")
    assert len(json.loads(out)) == 8


def test_show(run: Run) -> None:
    code, out, _ = run("show", "llava-1.5")
    assert code == 0 and out.startswith("LLaVA-1.5 (llava-1.5), A1, 2023/10\n")
    for line in (
        "CLIP ViT-L/14 -> MLP -> Vicuna 1.5", "image.connector  21.0 M", "total            7.1 G",
        "640 x 480   576 in 1 view\n", "learns image.connector 2e-05, backbone 2e-05; llava-mix-665k, batch 128",
    ):  # fmt: skip
        assert line in out
    assert "13.4 G" in run("show", "llava-1.5:13b")[1]
    out = run("show", "slam-asr")[1]
    assert "  30 s  299 in 1 view\n" in out and "  95 s  599 in 1 view, 60 s are heard\n" in out


def test_show_as_json_is_the_declaration(run: Run) -> None:
    from omniform import serial

    _, out, _ = run("show", "llava-1.5", "--json")
    assert serial.loads(out, "stdout") == index.system("llava-1.5")


def test_show_of_a_system_that_is_not_here(run: Run) -> None:
    missing = next(row for row in survey.rows() if row.slug not in index.names("systems"))
    code, out, _ = run("show", missing.slug)
    assert code == 0 and out.startswith(f"{missing.slug} is not written down here yet")
    assert missing.title in out
    data = json.loads(run("show", missing.slug, "--json")[1])
    assert (data["here"], data["date"]) == (False, missing.date)


@pytest.mark.parametrize("slug", index.names("systems"))
def test_every_system_can_be_shown(run: Run, slug: str) -> None:
    code, out, _ = run("show", slug)
    assert code == 0 and f"({slug})" in out and "total" in out


# --- cost --------------------------------------------------------------------------------------------------------


def test_cost_of_a_picture(run: Run) -> None:
    code, out, _ = run("cost", "llava-1.5", "--image", "640x480", "--image", "32x32", "--text", "100")
    assert code == 0
    for line in (
        "total            7.1 G", "image 640 x 480  576 in 1 view\n", "image 32 x 32    576 in 1 view\n",
        "text             100\n", "total            1,252\n", "keys and values  626 MiB in bfloat16",
    ):  # fmt: skip
        assert line in out


def test_cost_as_json(run: Run) -> None:
    found = json.loads(run("cost", "llava-1.5:13b", "--image", "640x480", "--json")[1])
    assert found["parameters"]["total"] == 13350839296
    assert found["positions"] == 576 + 128
    picture = {"modality": "image", "width": 640, "height": 480, "frames": 1, "views": 1, "positions": 576}
    assert found["media"] == [picture]


@pytest.mark.parametrize(
    ("video", "frames", "fps", "positions"),
    [("640x480x16", 16, None, 8 * 391), ("640x480x16@4", 16, 4.0, 4 * 391), ("640x480x8s", 200, 25.0, 8 * 391),
     ("640x480x8s@5", 40, 5.0, 8 * 391), ("640x480x2.5 s", 62, 25.0, 2 * 391)],
)  # fmt: skip
def test_cost_of_a_video_by_frames_or_seconds(
    run: Run, video: str, frames: int, fps: float | None, positions: int
) -> None:
    """Two frames a second are seen where the rate is known, each pair as 17 x 23 cells."""
    (medium,) = json.loads(run("cost", "qwen2-vl", "--video", video, "--json")[1])["media"]
    assert (medium["frames"], medium.get("fps"), medium["positions"]) == (frames, fps, positions)


def test_cost_of_sound_says_how_much_of_it_is_heard(run: Run) -> None:
    _, out, _ = run("cost", "qwen2-audio", "--audio", "10", "--audio", "95 s")
    assert "audio 10 s  250 in 1 view\n" in out and "audio 95 s  750 in 1 view, 30 s are heard\n" in out
    media = json.loads(run("cost", "qwen2-audio", "--audio", "95", "--json")[1])["media"]
    assert media == [
        {"modality": "audio", "samples": 1520000, "rate": 16000, "heard": 30.0, "views": 1, "positions": 750}
    ]


def test_cost_without_media_takes_the_encoders_own_size(run: Run) -> None:
    found = json.loads(run("cost", "llava-1.5", "--json")[1])
    assert [(m["width"], m["height"]) for m in found["media"]] == [(336, 336)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--image", "640"), "omniform: --image 640: give WIDTHxHEIGHT, such as 640x480"),
        (("--image", "0x480"), "omniform: media of 0x480, 1 frames: every side must be at least 1"),
        (("--video", "640x480"), "omniform: --video 640x480: give WIDTHxHEIGHTxFRAMES or WIDTHxHEIGHTxSECONDSs, such"),
        (("--video", "640x480x0s"), "omniform: media of 640x480, 0 frames: every side must be at least 1"),
        (("--video", "640x480x8"), "video"),
        (("--text", "0"), "--text"),
    ],
)
def test_cost_of_what_cannot_be(run: Run, words: Sequence[str], sentence: str) -> None:
    code, out, err = run("cost", "llava-1.5", *words)
    assert (code, out) == (2, "") and sentence in err and "Traceback" not in err


# --- printing ----------------------------------------------------------------------------------------------------


def test_tables_in_a_pipe_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "n"), [("a" * 200, "1"), ("b", "22")], right=("n",))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["name" + " " * 196 + "   n", "a" * 200 + "   1", "b" + " " * 199 + "  22"]


def test_tables_in_a_terminal_fit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    print_table(("name", "other"), [("a-long-slug", "x" * 50), ("b", "yy")], whole=("name",))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["a-long-slug  " + "x" * 16 + "…", "b            yy"]


def test_pairs_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs({"a": "1", "long": ""}, indent=2)
    assert capsys.readouterr().out == "  a     1\n  long\n"
    assert [count(n) for n in (5, 1500, 303507456, 20979712, 6738415616, 4e12)] == [
        "5", "1.5 k", "304 M", "21.0 M", "6.7 G", "4.0 T",
    ]  # fmt: skip


# --- stamps ------------------------------------------------------------------------------------------------------


def test_recorded_stamps_name_exactly_the_systems_that_are_here() -> None:
    assert set(recorded()) == set(index.names("systems")), "run `omniform verify --all --record`"
    assert all(tuple(stamps) == STAMPS for stamps in recorded().values())


def test_recording_keeps_the_other_systems(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omniform.verify import check, stamps

    kept = {"llava-1.5": dict.fromkeys(STAMPS, True), "no-more": dict.fromkeys(STAMPS, True)}
    monkeypatch.setattr(stamps, "recorded", lambda: kept)
    monkeypatch.setattr(stamps, "path", lambda: tmp_path / "_stamps.json")
    fake = [check.Check("llava", name, name != "parity", "", 0.0) for name in STAMPS]
    monkeypatch.setattr(check, "verify", lambda *_: iter(fake))
    code, _, _ = run("verify", "llava", "--record")
    written = json.loads((tmp_path / "_stamps.json").read_text("utf-8"))
    assert code == 1
    assert written == {"llava": {n: n != "parity" for n in STAMPS}, "llava-1.5": dict.fromkeys(STAMPS, True)}


def test_stamps_as_text() -> None:
    text = text_of({"b": {"row": True}, "a": {"row": False}})
    assert text == '{\n"a": {"row": false},\n"b": {"row": true}\n}\n'
    assert json.loads(text_of({})) == {}


def test_verify_prints_a_line_for_each_stamp(run: Run) -> None:
    code, out, _ = run("verify", "llava-1.5", "--stamps", "row,build")
    lines = [line.split()[:3] for line in out.splitlines()]
    assert (code, lines) == (0, [["llava-1.5", "row", "passed"], ["llava-1.5", "build", "passed"]])


def test_verify_fails_with_code_one(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("verify", "llava-1.5", "--stamps", "row,parity", "--goldens", str(tmp_path), "--json")
    checks = json.loads(out)
    assert code == 1 and [(c["stamp"], c["passed"]) for c in checks] == [("row", True), ("parity", False)]
    assert checks[1]["detail"].startswith(f"no golden files here: {tmp_path} is not tests/goldens")
