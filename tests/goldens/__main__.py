"""`python -m tests.goldens FILE...`: one line for each result, exit code 1 where one is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

from .golden import HERE
from .runner import NoAdapter, check


def main(arguments: list[str]) -> int:
    paths = [Path(a) for a in arguments] or sorted(
        p for p in HERE.glob("*__*") if p.suffix in (".json", ".safetensors")
    )
    wrong = 0
    for path in paths:
        print(path.name)
        try:
            lines = check(path)
        except (NoAdapter, OSError, ValueError, LookupError, RuntimeError) as error:
            print(f"  FAIL  {type(error).__name__}: {error}")
            wrong += 1
            continue
        for line in lines:
            print(f"  {line}")
            wrong += not line.passed
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
