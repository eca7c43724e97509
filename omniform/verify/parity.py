"""Stamp "parity": the same numbers as the original implementation, from golden vectors recorded from it."""

from __future__ import annotations

from omniform.spec import System
from omniform.verify.check import Context, Failed


def check(system: System, context: Context) -> str:
    """Run every golden file of the system.

    Raises:
        Failed: there are no golden files here, or one differs.
    """
    raise Failed("no golden files here")
