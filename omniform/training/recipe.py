"""A training run as data: a YAML recipe and `key=value` overrides, resolved into a frozen `Recipe`.

    name: nano                        # default: the file's name; the run goes to runs/NAME
    system: SLUG                      # or SLUG:VARIANT
    size: nano                        # full | nano | tiny; default full
    set:                              # dotted path in the system: value; parts are named (`training.compose`)
      inputs.image.encoder: {part: ConvNet, width: 32}
    tokenizer: {train: 512}           # or {path: DIRECTORY or hub id} or {gguf: FILE or "package:NAME"}
    weights: {backbone: DIRECTORY}    # part path: where it starts from (directory, hub id, "package:NAME")
    seed: 0
    precision: float32                # or bfloat16: autocast, weights stay float32
    data:                             # name: one dataset (`data.datasets`), or a list of them, one after the other
      questions: {kind: easy-vqa, split: train}
    stages:                           # stages of the system that are not named, or null, are skipped
      finetune:
        data: questions
        learn: {backbone: 1.0e-4}     # part: lr, {lr, first_layer, tokens, weight_decay}, or null: shall not learn;
        lr_scale: 1.0                 #   parts that are not named are as in the system's stage. Times every lr
        lora: {rank: 8, alpha: 16, lr: 2.0e-4, part: backbone, dropout: 0.0, layers: []}    # or null
        batch: 32                     # documents per optimizer step
        epochs: 1.0                   # or steps: 500
        schedule: cosine              # linear | constant
        warmup: 0.03                  # fraction of the steps
        weight_decay: 0.0
        clip_norm: 1.0                # 0 does not clip
        max_positions: 2048           # longest document, media included; longer ones lose words, and are counted
        pack_positions: 16384         # most positions of one packed batch
        on_bad_media: stop            # skip: leave the document out and count it
    evaluate: {data: NAME}            # read by `omniform.evaluation`; or several by name: {told: {...}, drawn: {...}}
    checkpoint: {seconds: 120, steps: null, keep_last: 2}
    log_every: 10                     # steps
    out: runs/nano

What a stage does not say comes from the system's own stage. A number that was never published must be given. The
resolved recipe says everything, and is a recipe itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omniform import index
from omniform.frozen import FrozenMap
from omniform.index import unknown
from omniform.spec import System
from omniform.training.compose import compose
from omniform.training.plain import Fields, RecipeError, at_least, overridden, read_yaml, typed, write_yaml
from omniform.training.stages import StageRun, resolve_stage

KEYS = (
    "name", "system", "size", "set", "tokenizer", "weights", "seed", "precision", "data", "stages", "evaluate",
    "checkpoint", "log_every", "out",
)  # fmt: skip
HARMLESS = ("name", "evaluate", "checkpoint", "log_every", "out")
"""Keys that may differ when a run is resumed: they do not change its weights."""


@dataclass(frozen=True, kw_only=True)
class TokenizerSource:
    """Where the tokenizer comes from: `train` (its size), `path` (directory or hub id) or `gguf` (file or package)."""

    kind: Literal["train", "path", "gguf"]
    value: int | str


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """How often a checkpoint is written, and how many are kept.

    Attributes:
        seconds: at the first step this long after the last one.
        steps: every so many steps of a stage, besides.
    """

    seconds: float | None = 120.0
    steps: int | None = None
    keep_last: int = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, every number known.

    Attributes:
        system: composed and shrunk; the backbone's vocabulary is set later, when the tokenizer is there.
        resolved: the same as plain data, in the schema of this module.
    """

    name: str
    system: System
    tokenizer: TokenizerSource
    weights: Mapping[str, str]
    seed: int
    precision: Literal["float32", "bfloat16"]
    data: Mapping[str, tuple[Mapping[str, Any], ...]]
    stages: tuple[StageRun, ...]
    evaluate: Mapping[str, Any]
    checkpoint: Checkpointing
    log_every: int
    out: Path
    resolved: Mapping[str, Any]

    def yaml(self) -> str:
        """The resolved recipe as YAML."""
        return write_yaml(self.resolved)


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of a file, with overrides.

    Raises:
        RecipeError: the file cannot be used, or the recipe cannot run.
        UnknownName: a key or name that does not exist; the nearest are given.
        SpecError: the composed system is impossible.
    """
    return resolve_recipe({"name": Path(path).stem, **read_yaml(path)}, overrides)


def resolve_recipe(data: Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of plain data; see `load_recipe` for errors."""
    top = Fields(overridden(data, overrides), "", KEYS)
    name = read_name(top)
    size = top.one_of("size", ("full", "nano", "tiny"), "full")
    changes = top.get("set", dict, {})
    system = _system(top, size, changes)
    data_ = read_data(top.get("data", dict, {}))
    stages = _stages(system, top.get("stages", dict, {}), data_)
    weights = _weights(system, top.get("weights", dict, {}))
    checkpoint = read_checkpointing(top.get("checkpoint", dict, {}))
    tokenizer = _tokenizer(top.data.get("tokenizer"))
    evaluate = top.get("evaluate", dict, {})
    for called, one in evaluations(evaluate).items():
        if "data" in one and one["data"] not in data_:
            raise unknown(f"dataset in {path_of(called)}.data", str(one["data"]), data_)
    seed, precision = top.get("seed", int, 0), top.one_of("precision", ("float32", "bfloat16"), "float32")
    log_every, out = top.get("log_every", int, 10), top.get("out", str, f"runs/{name}")
    at_least(log_every, 1, "log_every")
    resolved = {
        "name": name, "system": top.get("system", str, ""), "size": size, "set": dict(changes),
        "tokenizer": {tokenizer.kind: tokenizer.value}, "weights": dict(weights), "seed": seed, "precision": precision,
        "data": plain_data(data_),
        "stages": {s.name: s.plain(system) for s in stages}, "evaluate": dict(evaluate),
        "checkpoint": dict(vars(checkpoint)), "log_every": log_every, "out": out,
    }  # fmt: skip
    return Recipe(
        name=name, system=system, tokenizer=tokenizer, weights=weights, seed=seed, precision=precision, data=data_,
        stages=stages, evaluate=FrozenMap(evaluate), checkpoint=checkpoint, log_every=log_every, out=Path(out),
        resolved=FrozenMap(resolved),
    )  # fmt: skip


def read_name(top: Fields) -> str:
    """The name of a run.

    Raises:
        RecipeError: it cannot be a directory's.
    """
    return plain_word(top.get("name", str, "run"), "name")


def plain_word(name: str, where: str) -> str:
    """A name that a directory will have.

    Raises:
        RecipeError: it cannot be one.
    """
    if "/" in name or name.startswith(".") or not name:
        raise RecipeError(f"{where}: {name!r} is used as a directory name; give a plain word")
    return name


def _system(top: Fields, size: str, changes: Mapping[str, Any]) -> System:
    if "system" not in top.data:
        raise RecipeError(f"system: name one of {', '.join(index.names('systems'))}")
    system = index.system(top.get("system", str, ""))
    return compose(system if size == "full" else system.shrunk(size), changes)


def read_data(given: Mapping[str, Any]) -> FrozenMap[str, tuple[Mapping[str, Any], ...]]:
    """Name -> datasets, one after the other.

    Raises:
        RecipeError: none is given, or one is no mapping.
    """
    if not given:
        raise RecipeError(
            "data: give at least one dataset, such as `data: {questions: {kind: easy-vqa, split: train}}`"
        )
    found = {}
    for name, value in given.items():
        entries = value if isinstance(value, list) else [value]
        found[name] = tuple(FrozenMap(typed(e, dict, f"data.{name}")) for e in entries)
    return FrozenMap(found)


def evaluations(given: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Name -> evaluation; the only one, which a recipe gives without a name, has an empty one.

    Raises:
        RecipeError: a name that cannot be a directory's.
    """
    if not given or not all(isinstance(one, Mapping) for one in given.values()):
        return {"": given}
    return {plain_word(str(name), "evaluate"): one for name, one in given.items()}


def path_of(evaluation: str) -> str:
    """Where an evaluation of a name stands in a recipe."""
    return f"evaluate.{evaluation}" if evaluation else "evaluate"


def plain_data(data: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Datasets as `read_data` reads them again."""
    return {name: dict(v[0]) if len(v) == 1 else [dict(c) for c in v] for name, v in data.items()}


def _stages(system: System, given: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[StageRun, ...]:
    """The stages that are named and not null, in the system's order."""
    known = [s.name for s in system.stages]
    for name in given:
        if name not in known:
            raise unknown(f"stage of {system.slug}", str(name), known)
    wanted = [s for s in system.stages if given.get(s.name) is not None]
    if not wanted:
        raise RecipeError(f"stages: name at least one stage of {system.slug}: {', '.join(known)}")
    runs = tuple(resolve_stage(system, s, given[s.name]) for s in wanted)
    for run in runs:
        if run.data not in data:
            raise unknown(f"dataset in stages.{run.name}.data", run.data, data)
    return runs


def _weights(system: System, given: Mapping[str, Any]) -> FrozenMap[str, str]:
    parts = system.parts()
    for path, source in given.items():
        if path not in parts:
            raise unknown("part in weights", path, parts)
        typed(source, str, f"weights.{path}")
    return FrozenMap(given)


def read_checkpointing(given: Mapping[str, Any]) -> Checkpointing:
    """How often checkpoints are written; what is not given is as usual."""
    default = Checkpointing()
    fields = Fields(given, "checkpoint", tuple(vars(default)))
    made = Checkpointing(
        seconds=fields.optional("seconds", float, default.seconds),
        steps=fields.optional("steps", int, default.steps),
        keep_last=fields.get("keep_last", int, default.keep_last),
    )
    at_least(made.seconds, 0, "checkpoint.seconds")
    at_least(made.steps, 1, "checkpoint.steps")
    at_least(made.keep_last, 1, "checkpoint.keep_last")
    return made


def _tokenizer(given: Any) -> TokenizerSource:
    kinds = {"train": int, "path": str, "gguf": str}
    fields = Fields(given, "tokenizer", tuple(kinds))
    if len(fields.data) != 1:
        raise RecipeError("tokenizer: give one of {train: SIZE}, {path: DIRECTORY or hub id}, {gguf: FILE or package}")
    (kind,) = fields.data
    return TokenizerSource(kind=kind, value=fields.get(kind, kinds[kind], None))  # type: ignore[arg-type]
