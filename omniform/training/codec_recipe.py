"""Training of a codec alone, as data: a YAML recipe and `key=value` overrides, resolved into a frozen `CodecRecipe`.

    name: emoji-codec                 # default: the file's name; the run goes to runs/NAME
    codec: {part: VqGan, image: 64}   # a codec, with its fields
    views: {part: Fixed, fit: squash} # how media of any size become those of the codec
    seed: 0
    precision: float32                # or bfloat16: autocast, weights stay float32
    data:                             # name: one dataset (`data.datasets`), or a list; only their media are read
      train: {kind: openmoji, split: train}
      test: {kind: openmoji, split: test}
    learn:
      data: train
      lr: 1.0e-3
      batch: 16                       # media per optimizer step
      epochs: 1.0                     # or steps: 500
      schedule: cosine                # linear | constant
      warmup: 0.03                    # fraction of the steps
      weight_decay: 0.0
      clip_norm: 1.0                  # 0 does not clip
      errors: {squared: 1.0}          # factors of the codec's errors; what is not named is as the codec says
      renew: 20                       # every so many steps, unused entries move to where media need some; 0 never
      renew_part: 0.5                 # only in the first part of the steps
      on_bad_media: stop              # skip: leave the medium out and count it
    evaluate: {data: test, limit: null}
    checkpoint: {seconds: 120, steps: null, keep_last: 2}
    log_every: 10
    out: runs/emoji-codec

The resolved recipe says everything, and is a recipe itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omniform.data.loader import OnBadMedia
from omniform.frozen import FrozenMap
from omniform.index import unknown
from omniform.parts import Codec, Views
from omniform.training.compose import declared
from omniform.training.phase import Phase
from omniform.training.plain import Fields, RecipeError, at_least, overridden, read_yaml, thawed, typed, write_yaml
from omniform.training.recipe import Checkpointing, plain_data, read_checkpointing, read_data, read_name

KEYS = (
    "name", "codec", "views", "seed", "precision", "data", "learn", "evaluate", "checkpoint", "log_every", "out",
)  # fmt: skip
LEARN_KEYS = (
    "data", "lr", "batch", "epochs", "steps", "schedule", "warmup", "weight_decay", "clip_norm", "errors", "renew",
    "renew_part", "on_bad_media",
)  # fmt: skip
SQUASHED: Mapping[str, Any] = FrozenMap(part="Fixed", fit="squash")


@dataclass(frozen=True, kw_only=True)
class CodecPhase(Phase):
    """How a codec learns; attributes as in the recipe schema."""

    lr: float
    errors: Mapping[str, float]
    renew: int
    renew_part: float
    on_bad_media: OnBadMedia


@dataclass(frozen=True, kw_only=True)
class CodecRecipe:
    """One run, every number known.

    Attributes:
        limit: at most so many media are measured.
        resolved: the same as plain data, in the schema of this module.
    """

    name: str
    codec: Codec
    views: Views
    seed: int
    precision: Literal["float32", "bfloat16"]
    data: Mapping[str, tuple[Mapping[str, Any], ...]]
    learn: CodecPhase
    evaluate: str | None
    limit: int | None
    checkpoint: Checkpointing
    log_every: int
    out: Path
    resolved: Mapping[str, Any]

    @property
    def stages(self) -> tuple[CodecPhase, ...]:
        return (self.learn,)

    def yaml(self) -> str:
        """The resolved recipe as YAML."""
        return write_yaml(self.resolved)


def load_codec_recipe(path: str | Path, overrides: Iterable[str] = ()) -> CodecRecipe:
    """The recipe of a file, with overrides.

    Raises:
        RecipeError: the file cannot be used, or the recipe cannot run.
        UnknownName: a key or name that does not exist; the nearest are given.
        SpecError: the codec is impossible.
    """
    return resolve_codec_recipe({"name": Path(path).stem, **read_yaml(path)}, overrides)


def resolve_codec_recipe(plain: Mapping[str, Any], overrides: Iterable[str] = ()) -> CodecRecipe:
    """The recipe of plain data; see `load_codec_recipe` for errors."""
    top = Fields(overridden(plain, overrides), "", KEYS)
    name = read_name(top)
    codec = _codec(top.get("codec", dict, {}))
    views = _part(top.get("views", dict, SQUASHED), "views", Views)
    data = read_data(top.get("data", dict, {}))
    learn = _phase(top.get("learn", dict, {}), codec)
    said = Fields(top.get("evaluate", dict, {}), "evaluate", ("data", "limit"))
    evaluate, limit = said.optional("data", str, None), said.optional("limit", int, None)
    for where, wanted in (("learn.data", learn.data), ("evaluate.data", evaluate)):
        if wanted is not None and wanted not in data:
            raise unknown(f"dataset in {where}", wanted, data)
    checkpoint = read_checkpointing(top.get("checkpoint", dict, {}))
    seed, precision = top.get("seed", int, 0), top.one_of("precision", ("float32", "bfloat16"), "float32")
    log_every, out = top.get("log_every", int, 10), top.get("out", str, f"runs/{name}")
    at_least(log_every, 1, "log_every")
    resolved = {
        "name": name, "codec": thawed(top.data["codec"]), "views": thawed(top.get("views", dict, SQUASHED)),
        "seed": seed, "precision": precision,
        "data": plain_data(data),
        "learn": {k: thawed(getattr(learn, k)) for k in LEARN_KEYS}, "evaluate": {"data": evaluate, "limit": limit},
        "checkpoint": dict(vars(checkpoint)), "log_every": log_every, "out": out,
    }  # fmt: skip
    return CodecRecipe(
        name=name, codec=codec, views=views, seed=seed, precision=precision, data=data, learn=learn, evaluate=evaluate,
        limit=limit, checkpoint=checkpoint, log_every=log_every, out=Path(out), resolved=FrozenMap(resolved),
    )  # fmt: skip


def _codec(given: Mapping[str, Any]) -> Codec:
    codec: Codec = _part(given, "codec", Codec)
    if not codec.errors:
        raise RecipeError(
            f"codec: {type(codec).__name__} cannot learn by itself here; start it from released weights "
            "(`weights` of a recipe of `omniform train`)"
        )
    return codec


def _part(given: Mapping[str, Any], where: str, kind: type) -> Any:
    if "part" not in given:
        raise RecipeError(f"{where}: give a part and its fields, such as `{where}: {{part: NAME, ...}}`")
    part = declared(given, where)
    if not isinstance(part, kind):
        raise RecipeError(f"{where}: {type(part).__name__} is no {kind.__name__.lower()}")
    return part


def _phase(given: Mapping[str, Any], codec: Codec) -> CodecPhase:
    read = Fields(given, "learn", LEARN_KEYS)
    for key in ("data", "lr", "batch"):
        if key not in read.data:
            raise RecipeError(f"learn.{key} is missing; give it")
    errors = Fields(read.get("errors", dict, {}), "learn.errors", tuple(codec.errors))
    steps = read.optional("steps", int, None)
    phase = CodecPhase(
        name="codec", data=typed(read.data["data"], str, "learn.data"), lr=read.get("lr", float, 0.0),
        batch=read.get("batch", int, 0), epochs=read.optional("epochs", float, None if steps is not None else 1.0),
        steps=steps, schedule=read.one_of("schedule", ("cosine", "linear", "constant"), "cosine"),
        warmup=read.get("warmup", float, 0.03), weight_decay=read.get("weight_decay", float, 0.0),
        clip_norm=read.get("clip_norm", float, 1.0), renew=read.get("renew", int, 20),
        errors=FrozenMap({name: errors.get(name, float, usual) for name, usual in codec.errors.items()}),
        renew_part=read.get("renew_part", float, 0.5),
        on_bad_media=read.one_of("on_bad_media", ("stop", "skip"), "stop"),
    )  # fmt: skip
    _check(phase)
    return phase


def _check(phase: CodecPhase) -> None:
    if phase.steps is not None and phase.epochs is not None:
        raise RecipeError(f"learn: epochs {phase.epochs} and steps {phase.steps}; give one of them")
    for key, least in (
        ("lr", 0), ("batch", 1), ("steps", 1), ("epochs", 0), ("warmup", 0), ("weight_decay", 0), ("clip_norm", 0),
        ("renew", 0), ("renew_part", 0),
    ):  # fmt: skip
        at_least(getattr(phase, key), least, f"learn.{key}")
    for key in ("warmup", "renew_part"):
        if getattr(phase, key) > 1:
            raise RecipeError(f"learn.{key}: {getattr(phase, key)} is more than 1; it is a fraction of the steps")
