"""Runs the stamps of one system: each ends in one line, whether it holds or not."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omniform.spec import System
from omniform.verify.stamps import STAMPS


class Failed(AssertionError):
    """A stamp that is not earned; the message says what differs, with both sides."""


@dataclass(frozen=True)
class Check:
    """What one stamp came to.

    Attributes:
        detail: what was compared, or what is wrong; one sentence.
    """

    system: str
    stamp: str
    passed: bool
    detail: str
    seconds: float


@dataclass(frozen=True)
class Context:
    """What checks need besides the system.

    Attributes:
        goldens: folder of a source checkout's tests/goldens; None looks beside the package.
    """

    goldens: Path | None = None


def verify(system: System, stamps: Sequence[str] = STAMPS, context: Context | None = None) -> Iterator[Check]:
    """One check after the other; an error in one does not keep the others from running."""
    for stamp in stamps:
        start = time.perf_counter()
        try:
            module = importlib.import_module(f"omniform.verify.{stamp}")
            passed, detail = True, module.check(system, context or Context())
        except Exception as error:
            passed, detail = False, _sentence(error)
        yield Check(system.slug, stamp, passed, detail, time.perf_counter() - start)


def _sentence(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if isinstance(error, Failed) else f"{type(error).__name__}: {words}"
