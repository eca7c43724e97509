"""What a run leaves to look at: `metrics.jsonl`, TensorBoard event files in `events/`, and `loss.png`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

JSONL, EVENTS, PLOT = "metrics.jsonl", "events", "loss.png"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Means since the record before it.

    Attributes:
        number: number of the stage in the run.
        step: steps of the stage done so far.
        overall: steps of the run done so far.
        lr: learning rate of the part that learns fastest.
        grad_norm: global norm before clipping.
        documents, positions: done so far in the run.
        seconds: time spent so far in the run, over all resumptions.
    """

    stage: str
    number: int
    step: int
    overall: int
    loss: float
    lr: float
    grad_norm: float
    documents: int
    positions: int
    documents_per_s: float
    positions_per_s: float
    seconds: float


class Metrics:
    """Appends records to the files of one run."""

    def __init__(self, folder: Path, number: int, step: int, overall: int) -> None:
        """Go on after `step` steps of stage `number`: what was written beyond is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        _truncate(folder / JSONL, number, step)
        self._file = open(folder / JSONL, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed in close()
        self._events = SummaryWriter(str(folder / EVENTS), purge_step=overall + 1)

    def write(self, record: Record) -> None:
        values = asdict(record)
        self._file.write(json.dumps(values) + "\n")
        for name in ("loss", "lr", "grad_norm", "documents_per_s", "positions_per_s"):
            self._events.add_scalar(f"train/{name}", values[name], record.overall)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def read_records(folder: Path) -> list[Mapping[str, Any]]:
    """Records of a run; a last line that was cut off is left out."""
    path = folder / JSONL
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def plot(folder: Path) -> Path:
    """Draw the loss of every stage over the steps of the run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    records = read_records(folder)
    for stage in dict.fromkeys(r["stage"] for r in records):
        own = [r for r in records if r["stage"] == stage]
        steps, losses = [r["overall"] for r in own], [r["loss"] for r in own]
        (line,) = axes.plot(steps, losses, alpha=0.35, linewidth=1)
        axes.plot(steps, _smoothed(losses), color=line.get_color(), label=f"{stage} (ends at {losses[-1]:.4f})")
    if records:
        axes.legend()
    axes.set(xlabel="step", ylabel="loss per learned token", title=folder.resolve().name, yscale="log")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(folder / PLOT, dpi=120)
    return folder / PLOT


def _smoothed(values: Sequence[float], keep: float = 0.7) -> list[float]:
    """Exponential mean whose start is not biased towards its first value."""
    total = weight = 0.0
    out = []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + 1 - keep
        out.append(total / weight)
    return out


def _truncate(path: Path, number: int, step: int) -> None:
    if not path.exists():
        return
    kept = [r for r in read_records(path.parent) if (r["number"], r["step"]) <= (number, step)]
    beside = path.with_suffix(".partial")
    beside.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
    os.replace(beside, path)
