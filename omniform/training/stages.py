"""A system's stage and what a recipe says about it -> a stage that can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from omniform.parts import Views
from omniform.prompt import Prompt
from omniform.spec import Learn, Lora, Stage, System, Undisclosed
from omniform.training.phase import Phase
from omniform.training.plain import Fields, RecipeError, at_least, thawed, typed

KEYS = (
    "data", "learn", "lr_scale", "lora", "batch", "epochs", "steps", "schedule", "warmup", "weight_decay", "clip_norm",
    "max_positions", "pack_positions", "on_bad_media",
)  # fmt: skip
LEARN_KEYS = ("lr", "first_layer", "tokens", "head", "weight_decay")
BARE = Learn(part="", lr=0.0)
LORA_KEYS = tuple(f.name for f in fields(Lora))
SCHEDULES = ("cosine", "linear", "constant")


@dataclass(frozen=True, kw_only=True)
class StageRun(Phase):
    """One phase of training, every number known. The attributes are those of `spec.Stage` and of the recipe schema."""

    learn: tuple[Learn, ...]
    lora: Lora | None
    max_positions: int
    pack_positions: int
    on_bad_media: Literal["stop", "skip"]
    prompt: Prompt | None
    views: Mapping[str, Views]
    experts: Literal["apart", "joined"] = "apart"
    outputs: tuple[str, ...] = ()

    def plain(self, system: System) -> dict[str, Any]:
        """Plain data in the recipe's schema; parts of the system's own stage that do not learn here are null."""
        own = next(s for s in system.stages if s.name == self.name)
        learn: dict[str, Any] = {item.part: None for item in own.learn}
        for item in self.learn:
            more = {k: thawed(v) for k in LEARN_KEYS[1:] if (v := getattr(item, k)) != getattr(BARE, k)}
            learn[item.part] = {"lr": item.lr, **more} if more else item.lr
        rest = {k: getattr(self, k) for k in KEYS if k not in ("learn", "lr_scale", "lora")}
        lora = {k: thawed(getattr(self.lora, k)) for k in LORA_KEYS} if self.lora else None
        return {"data": rest.pop("data"), "learn": learn, "lora": lora, **rest}


def resolve_stage(system: System, stage: Stage, given: Any) -> StageRun:
    """The stage with the recipe's fields over the system's.

    Raises:
        RecipeError: a value of the wrong type, or a number that was never published and is not given.
        UnknownName: an unknown key or part.
    """
    where = f"stages.{stage.name}"
    read = Fields(given, where, KEYS)
    if "data" not in read.data:
        raise RecipeError(f"{where}.data: name one of the recipe's datasets")
    scale = read.get("lr_scale", float, 1.0)
    epochs, steps = _length(read, stage)
    values: dict[str, Any] = {
        "learn": _learn(system, stage, read.get("learn", dict, {}), scale, where),
        "lora": _lora(stage, read.data, scale, where),
        "batch": read.get("batch", int, stage.batch),
        "epochs": epochs,
        "steps": steps,
        "schedule": read.one_of("schedule", SCHEDULES, stage.schedule),
        "max_positions": read.get("max_positions", int, _longest(system, stage)),
        "pack_positions": read.get("pack_positions", int, 16384),
        "on_bad_media": read.one_of("on_bad_media", ("stop", "skip"), "stop"),
    }
    values |= {k: read.get(k, float, getattr(stage, k)) for k in ("warmup", "weight_decay", "clip_norm")}
    _check(system, stage, values, where)
    own: dict[str, Any] = {n: getattr(stage, n) for n in ("prompt", "views", "experts", "outputs")}
    return StageRun(name=stage.name, data=read.get("data", str, ""), **own, **values)


def _longest(system: System, stage: Stage) -> int | Undisclosed:
    published = stage.max_positions
    return published if isinstance(published, Undisclosed) else min(published, system.backbone.context)


def _length(read: Fields, stage: Stage) -> tuple[Any, int | None]:
    steps = read.optional("steps", int, None if "epochs" in read.data else stage.steps)
    epochs = read.optional("epochs", float, None if steps is not None else stage.epochs)
    if steps is not None and epochs is not None:
        raise RecipeError(f"{read.where}: epochs {epochs} and steps {steps}; give one of them")
    return (epochs if epochs is not None or steps is not None else stage.epochs), steps


def _learn(system: System, stage: Stage, given: Mapping[str, Any], scale: float, where: str) -> tuple[Learn, ...]:
    chosen: dict[str, Learn | None] = {item.part: item for item in stage.learn}
    for part, value in given.items():
        own = chosen.get(part)
        if value is None:
            chosen[part] = None
        elif isinstance(value, Mapping):
            chosen[part] = _one(part, own or Learn(part=part, lr=Undisclosed("not given")), value, where)
        else:
            lr = typed(value, float, f"{where}.learn.{part}")
            chosen[part] = replace(own, lr=lr) if own else Learn(part=part, lr=lr)
    kept = tuple(item for item in chosen.values() if item)
    system.but({f"stages.{stage.name}": replace(stage, learn=kept)})  # names of parts are checked where systems are
    return tuple(i if isinstance(i.lr, Undisclosed) else replace(i, lr=i.lr * scale) for i in kept)


def _one(part: str, own: Learn, given: Mapping[str, Any], where: str) -> Learn:
    """What a mapping says of a part that learns; without a first layer it learns from the first."""
    read = Fields(given, f"{where}.learn.{part}", LEARN_KEYS)
    tokens, head = read.get("tokens", list, own.tokens), read.get("head", bool, own.head)
    return replace(
        own, lr=read.get("lr", float, own.lr), first_layer=read.get("first_layer", int, 0),
        tokens=tuple(typed(token, str, read.path("tokens")) for token in tokens), head=head,
        weight_decay=read.optional("weight_decay", float, own.weight_decay),
    )  # fmt: skip


def _lora(stage: Stage, given: Mapping[str, Any], scale: float, where: str) -> Lora | None:
    if "lora" not in given:
        return replace(stage.lora, lr=stage.lora.lr * scale) if stage.lora else None
    if given["lora"] is None:
        return None
    read = Fields(given["lora"], f"{where}.lora", LORA_KEYS)
    own = stage.lora
    values: dict[str, Any] = {
        "part": read.get("part", str, own.part if own else "backbone"),
        "rank": read.get("rank", int, own.rank if own else None),
        "alpha": read.get("alpha", float, own.alpha if own else None),
        "dropout": read.get("dropout", float, own.dropout if own else 0.0),
        "layers": tuple(
            typed(n, str, read.path("layers")) for n in read.get("layers", list, own.layers if own else ())
        ),
        "lr": read.get("lr", float, own.lr if own else None),
    }
    for key, value in values.items():
        if value is None:
            raise RecipeError(f"{where}.lora: {key} is missing; give it")
    at_least(values["rank"], 1, f"{where}.lora.rank")
    return Lora(**{**values, "lr": values["lr"] * scale})


def _check(system: System, stage: Stage, values: Mapping[str, Any], where: str) -> None:
    unknown = [f"{k} ({v.note})" if v.note else k for k, v in values.items() if isinstance(v, Undisclosed)]
    unknown += [f"learn: {{{i.part}: LR}}" for i in values["learn"] if isinstance(i.lr, Undisclosed)]
    if unknown:
        raise RecipeError(
            f"{where}: never published for {system.slug}: {'; '.join(unknown)}. Give a value in the recipe"
        )
    learning = [i.part for i in values["learn"] if not i.tokens]  # rows of tokens have no adapters
    lora = values["lora"]
    if not values["learn"] and not lora:
        raise RecipeError(f"{where}: no part learns; name one in learn, or give lora")
    if lora:
        if lora.part not in system.parts():
            raise RecipeError(f"{where}.lora.part: {system.slug} has no part {lora.part!r}")
        if lora.part in learning:
            raise RecipeError(f"{where}: {lora.part} learns in full and by lora; write `{lora.part}: null` in learn")
    for key, least in (("batch", 1), ("steps", 1), ("epochs", 0), ("warmup", 0), ("weight_decay", 0), ("clip_norm", 0)):
        at_least(values[key], least, f"{where}.{key}")
    if values["warmup"] > 1:
        raise RecipeError(f"{where}.warmup: {values['warmup']} is more than 1; it is a fraction of the steps")
    for key in ("max_positions", "pack_positions"):
        at_least(values[key], 2, f"{where}.{key}")
    if values["max_positions"] > system.backbone.context:
        raise RecipeError(
            f"{where}.max_positions: {values['max_positions']}, but the backbone was made for "
            f"{system.backbone.context} positions; lower it, or set backbone.context"
        )
