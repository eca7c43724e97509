"""A run that is killed goes on where it was and ends with the very same weights."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from omniform.training import checkpoint
from omniform.training.checkpoint import checkpoints, read_checkpoint
from omniform.training.plain import RecipeError
from omniform.training.recipe import Recipe, resolve_recipe
from omniform.training.report import Quiet
from omniform.training.run import RunResult, run_recipe, train
from omniform.training.trainer import Stopped
from omniform.weights.layout import CheckpointError

DATA: dict[str, Any] = {
    "system": "llava-1.5",
    "size": "tiny",
    "tokenizer": {"train": 270},
    "data": {"train": {"kind": "easy-vqa", "split": "train", "limit": 6}},
    "stages": {
        "pretrain": {"data": "train", "batch": 12, "steps": 7, "learn": {"image.encoder": 1e-3}},
        "finetune": {
            "data": "train",
            "batch": 20,
            "steps": 9,
            "learn": {"backbone": None},
            "lora": {"rank": 2, "alpha": 4, "lr": 1e-2, "dropout": 0.2},  # dropout: random numbers must be the same too
        },
    },
    "checkpoint": {"seconds": None, "steps": 2, "keep_last": 2},
    "log_every": 3,
}

LIFE = """
import json, os, random, signal, sys
import torch
torch.set_num_threads(1)
import peft, torch.utils.tensorboard
from omniform.training import checkpoint, run
from omniform.training.recipe import resolve_recipe
from omniform.training.report import Quiet

class Killed(Quiet):  # kills its own process after so many steps
    left = -1
    def advance(self, step):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

def killed_after(calls, function):
    def inner(*args, **kwargs):
        nonlocal calls
        result = function(*args, **kwargs)
        calls -= 1
        if not calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return inner

def live(where, count, out):
    report = Killed()
    if where == "step":
        report.left = count
    elif where == "write":  # inside a checkpoint, between its files
        checkpoint.save_file = killed_after(count, checkpoint.save_file)
    elif where == "remove":  # while an old checkpoint is removed
        checkpoint.shutil.rmtree = killed_after(count, lambda path, **_: os.remove(next(path.iterdir())))
    elif where == "seconds":
        signal.setitimer(signal.ITIMER_REAL, count)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    run.train(resolve_recipe(json.loads(sys.argv[1])), out, report=report, device="cpu")

for line in sys.stdin:
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        try:
            live(*json.loads(line))
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Reads [where, count, out] lines; each is a run in a process of its own, which dies as told. Gives exit codes."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(*overrides: str) -> Recipe:
    return resolve_recipe(DATA, overrides)


def quiet(out: Path, *overrides: str, **options: Any) -> RunResult:
    return train(recipe(*overrides), out, report=Quiet(), device="cpu", **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    torch.set_num_threads(1)
    return quiet(tmp_path_factory.mktemp("undisturbed") / "run")


def final(run: Path) -> dict[str, bytes]:
    """Bytes of every tensor of the model that a run ended with, and what it recorded besides times."""
    tensors = {n: t.numpy().tobytes() for n, t in load_file(run / "model/model.safetensors").items()}
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return tensors | {
        f"{r['stage']} {r['step']}": repr((r["overall"], r["loss"], r["grad_norm"], r["documents"])).encode()
        for r in lines
    }


def test_killed_runs_end_with_the_same_weights(tmp_path: Path, undisturbed: RunResult):
    lives = subprocess.Popen(
        [sys.executable, "-c", LIFE, json.dumps(DATA)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert lives.stdin and lives.stdout

    def live(where: str, count: float, out: str) -> int:
        lives.stdin.write(json.dumps([where, count, str(tmp_path / out)]) + "\n")  # type: ignore[union-attr]
        lives.stdin.flush()  # type: ignore[union-attr]
        return int(lives.stdout.readline())  # type: ignore[union-attr]

    deaths = [
        ("step", 1),
        ("write", 1),
        ("step", 3),
        ("write", 4),
        ("remove", 1),
        ("step", 4),
        ("seconds", 0.4),
        ("write", 5),
    ]
    codes = [live(where, count, "killed") for where, count in deaths]
    assert codes == [-signal.SIGKILL] * len(deaths)
    live("seconds", random.Random(time.time_ns()).uniform(0.1, 1.0), "killed")  # anywhere; it may also live on
    assert live("never", 0, "killed") == 0
    lives.communicate()
    expected, killed = final(undisturbed.out), final(tmp_path / "killed")
    assert len(expected) > 60
    assert killed == expected
    kept = [p.name for p in (tmp_path / "killed/checkpoints").iterdir()]
    assert sorted(kept) == ["1-00000008", "2-00000000"], "nothing that a killed writer began stays"


def test_the_same_command_says_that_a_run_is_complete(undisturbed: RunResult):
    written = (undisturbed.out / "model/model.safetensors").stat().st_mtime_ns
    again = run_recipe(undisturbed.out, report=Quiet())
    assert (again.state, again.loss) == (undisturbed.state, undisturbed.loss)
    assert (undisturbed.out / "model/model.safetensors").stat().st_mtime_ns == written
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, undisturbed.model.state_dict()[name]), name


def test_another_recipe_is_refused_and_the_difference_named(undisturbed: RunResult):
    with pytest.raises(
        RecipeError, match=r"another recipe \(seed: 0 before, 1 now; stages.finetune.batch: 20 before, 10 now\)"
    ):
        quiet(undisturbed.out, "seed=1", "stages.finetune.batch=10")
    quiet(undisturbed.out, "checkpoint.keep_last=5", "log_every=1")


def test_other_data_under_the_same_name_are_refused(tmp_path: Path):
    rows = [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}] * 3
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    data = f"data.train={{kind: chat, path: {file}}}"
    quiet(tmp_path / "run", data)
    file.write_text("\n".join(map(json.dumps, rows[:2])))
    with pytest.raises(
        CheckpointError, match=r"documents in the data changed since .*\{'train': 3} before, \{'train': 2} now"
    ):
        quiet(tmp_path / "run", data)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used_on_demand(
    tmp_path: Path, undisturbed: RunResult, name: str
):
    stop_after(tmp_path / "run", 12)
    newest = checkpoints(tmp_path / "run")[-1]
    assert newest.name == "1-00000004"
    damaged = bytearray((newest / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (newest / name).write_bytes(damaged)
    with pytest.raises(
        CheckpointError, match=rf"1-00000004/({name}|state\.json).*the checkpoint before is 1-00000002: delete"
    ):
        quiet(tmp_path / "run")
    resumed = quiet(tmp_path / "run", use_previous=True)
    for key, tensor in undisturbed.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[key]), key


def stop_after(out: Path, steps: int) -> None:
    """A run that is interrupted, without a checkpoint of its last step."""

    class Interrupting(Quiet):
        left = steps

        def advance(self, step: int) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(), out, report=Interrupting(), device="cpu")


def test_a_missing_file_is_named(tmp_path: Path):
    stop_after(tmp_path / "run", 4)
    (checkpoints(tmp_path / "run")[-1] / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"0-00000002/optimizer\.safetensors: missing"):
        quiet(tmp_path / "run")


def test_a_full_disk_leaves_the_checkpoint_before_intact(
    tmp_path: Path, undisturbed: RunResult, monkeypatch: pytest.MonkeyPatch
):
    written = 0

    def full(tensors: Any, path: Path) -> None:
        nonlocal written
        written += 1
        if written == 6:  # the optimizer of the third checkpoint
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save_file(tensors, path)

    save_file = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(
        CheckpointError, match=r"cannot write checkpoint .*0-00000006: .*No space left on device.*0-00000004 is intact"
    ):
        quiet(tmp_path / "run")
    assert [p.name for p in sorted((tmp_path / "run/checkpoints").iterdir())] == ["0-00000002", "0-00000004"]
    assert read_checkpoint(checkpoints(tmp_path / "run")[-1]).state["step"] == 4
    monkeypatch.undo()
    resumed = quiet(tmp_path / "run")
    for key, tensor in undisturbed.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[key]), key


@pytest.mark.parametrize(
    ("after", "said", "newest"),
    [
        (3, "stopped after step 3 of stage 'pretrain'", "0-00000003"),
        (7, "stopped after stage 'pretrain'", "1-00000000"),
    ],
)
def test_a_run_that_is_asked_to_stop_writes_a_checkpoint_first(
    tmp_path: Path, undisturbed: RunResult, after: int, said: str, newest: str
):
    class Asking(Quiet):
        left = after

        def advance(self, step: int) -> None:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=f"{said}; the same command goes on"):
        train(recipe(), tmp_path / "run", report=Asking(), device="cpu")
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoints(tmp_path / "run")[-1].name == newest
    resumed = quiet(tmp_path / "run")
    for key, tensor in undisturbed.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[key]), key


def test_one_process_at_a_time(tmp_path: Path):
    class Nested(Quiet):
        def advance(self, step: int) -> None:
            quiet(tmp_path / "run")

    with pytest.raises(RecipeError, match="another process is training in"):
        train(recipe(), tmp_path / "run", report=Nested(), device="cpu")
