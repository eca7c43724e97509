"""Progress on the screen: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from omniform.training.metrics import Record


class Report(Protocol):
    """What a trainer tells while it runs."""

    def say(self, text: str) -> None:
        """One sentence."""
        ...

    def start(self, stage: str, step: int, total: int) -> None:
        """A stage starts, after `step` of its `total` steps."""
        ...

    def show(self, record: Record) -> None:
        """New numbers of the stage that runs."""
        ...

    def advance(self, step: int) -> None:
        """So many steps are done; called after every step."""
        ...

    def stop(self) -> None:
        """The stage has ended, or failed."""
        ...


def console_report(console: Console | None = None) -> Report:
    """A bar if the console is a terminal, else plain lines."""
    console = console or Console()
    return Bar(console) if console.is_terminal else Lines(console)


def summary(record: Record) -> str:
    """The numbers of a record that people watch."""
    return (
        f"loss {record.loss:.4f}  lr {record.lr:.1e}  {record.documents_per_s:,.0f} documents/s  "
        f"{record.positions_per_s:,.0f} positions/s"
    )


@dataclass
class Bar:
    """A rich progress bar."""

    console: Console
    progress: Progress | None = None
    task: Any = None
    shown: float = 0.0

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def start(self, stage: str, step: int, total: int) -> None:
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console)
        self.task = self.progress.add_task(stage, total=total, completed=step, text="")
        self.progress.start()

    def show(self, record: Record) -> None:
        if self.progress:
            self.progress.update(self.task, completed=record.step, text=summary(record))

    def advance(self, step: int) -> None:
        now = time.monotonic()
        if self.progress and now - self.shown > 0.2:
            self.shown = now
            self.progress.update(self.task, completed=step)

    def stop(self) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None


@dataclass
class Lines:
    """A line at most every `seconds`, and for the last step of a stage."""

    console: Console
    seconds: float = 10.0
    total: int = 0
    stage: str = ""
    started: tuple[float, int] = (0.0, 0)
    shown: float = field(default=0.0)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def start(self, stage: str, step: int, total: int) -> None:
        self.stage, self.total, self.shown = stage, total, 0.0
        self.started = time.monotonic(), step

    def show(self, record: Record) -> None:
        now = time.monotonic()
        if now - self.shown > self.seconds or record.step == self.total:
            self.shown = now
            self.say(f"{self.stage} {record.step}/{self.total}  {summary(record)}  ETA {self._eta(now, record.step)}")

    def _eta(self, now: float, step: int) -> str:
        began, first = self.started
        left = round((now - began) / max(1, step - first) * (self.total - step))
        return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"

    def advance(self, step: int) -> None:
        pass

    def stop(self) -> None:
        pass


class Quiet:
    """Says nothing."""

    def say(self, text: str) -> None:
        pass

    def start(self, stage: str, step: int, total: int) -> None:
        pass

    def show(self, record: Record) -> None:
        pass

    def advance(self, step: int) -> None:
        pass

    def stop(self) -> None:
        pass
