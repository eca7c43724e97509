"""A golden: what an original implementation gave for a tiny random model, or for one of its pure functions.

`SLUG__CASE.safetensors` holds `param.<released key>`, `in.<name>` and `out.<name>`, and as metadata `config` (JSON),
`source` and `notes`; `SLUG__CASE.json` holds exact results.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Golden:
    """One golden file.

    Attributes:
        meta: strings that came with it.
        inputs, expected: tensors without their `in.` and `out.`.
        data: the content of a JSON file.
    """

    path: Path
    meta: dict[str, str] = field(default_factory=dict)
    own_params: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    expected: dict[str, Tensor] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return self.path.stem.split("__")[0]

    @property
    def case(self) -> str:
        return self.path.stem.partition("__")[2]

    @property
    def notes(self) -> str:
        return self.meta.get("notes", "")

    @cached_property
    def config(self) -> dict[str, Any]:
        return json.loads(self.meta.get("config", "{}"))

    @cached_property
    def params(self) -> dict[str, Tensor]:
        """Released key -> tensor; of the sibling that the notes name, where the file holds none itself."""
        return self.own_params or next((g.own_params for g in self.siblings() if g.own_params), {})

    def siblings(self) -> list[Golden]:
        """Goldens of the same system that the notes mention, the longest name first."""
        names = {p.stem: p for folder in (HERE, self.path.parent) for p in folder.glob(f"{self.slug}__*.safetensors")}
        near = [p for stem, p in names.items() if stem != self.path.stem and stem.partition("__")[2] in self.notes]
        return [load(p) for p in sorted(near, key=lambda p: len(p.stem), reverse=True)]

    def at(self, path: str) -> Any:
        """What a JSON golden holds at "cases/0/total_tokens"."""
        value: Any = self.data
        for step in path.split("/"):
            value = value[int(step) if isinstance(value, list) else step]
        return value


def load(path: str | Path) -> Golden:
    path = Path(path)
    if path.suffix == ".json":
        data = json.loads(path.read_text(encoding="utf-8"))
        return Golden(path, meta={k: v for k, v in data.items() if isinstance(v, str)}, data=data)
    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        meta = file.metadata() or {}

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}

    return Golden(path, meta, own_params=under("param."), inputs=under("in."), expected=under("out."))
