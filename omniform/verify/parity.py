"""Stamp "parity": the same numbers as the original implementation, from golden vectors recorded from it."""

from __future__ import annotations

from omniform.spec import System
from omniform.verify import goldens
from omniform.verify.check import Context, Failed


def check(system: System, context: Context) -> str:
    """Compute and compare every result in every golden file of the system.

    Raises:
        Failed: there are no golden files here, or a result differs.
    """
    runner = goldens.module("runner", context)
    paths = goldens.files(system.slug, context)
    if not paths:
        raise Failed(f"no golden files of {system.slug} in {goldens.folder(context)}")
    lines = [(path.name, line) for path in paths for line in runner.check(path)]
    wrong = [f"{name} {line.name} ({line.note or f'{line.error:.1e}'})" for name, line in lines if not line.passed]
    if wrong:
        raise Failed(f"{len(wrong)} of {len(lines)} results differ: {'; '.join(wrong[:3])}")
    worst = max(line.error for _, line in lines)
    return f"{len(lines)} results in {len(paths)} files, largest relative error {worst:.1e}"
