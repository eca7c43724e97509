"""What the user reads when something goes wrong."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path

USER, INTERNAL = 2, 70
"""Exit codes: something the user can put right; a defect of this library (EX_SOFTWARE of sysexits.h)."""


def is_expected(error: BaseException) -> bool:
    """Whether the message alone tells the user what to do: the system's own errors, and those this package defines."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "omniform"


def explain(error: BaseException) -> int:
    """Print one sentence to stderr; the exit code to leave with.

    A defect's traceback is kept in a file that the sentence names.
    """
    if is_expected(error):
        print(f"omniform: {sentence(error)}", file=sys.stderr)
        return USER
    handle, kept = tempfile.mkstemp(prefix="omniform-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    print(
        f"omniform: unexpected {type(error).__name__} in {_place(error)}: {sentence(error)} "
        f"(a defect; its traceback is in {kept})",
        file=sys.stderr,
    )
    return INTERNAL


def sentence(error: BaseException) -> str:
    """The message on one line."""
    if isinstance(error, OSError) and error.strerror:
        words = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    else:
        words = str(error) or type(error).__name__
    return " ".join(words.split())


def _place(error: BaseException) -> str:
    """File and line of this package nearest to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "omniform" in Path(f.filename).parts] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "nowhere"
