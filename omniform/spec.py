"""A large multimodal model written down as data.

A `System` lists its inputs, its backbone and its outputs; input type (A, B) and output type (1, 2, 3) of the survey
follow from them. An impossible composition is refused when the `System` is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, cast

from omniform.change import changed
from omniform.frozen import FrozenMap
from omniform.geometry import MediaSize, Plan, Positions
from omniform.index import resolve, unknown
from omniform.inputs import Coded, Continuous, Discrete, Input, Shared
from omniform.outputs import ToldAlong
from omniform.parts import (
    Backbone,
    Codec,
    Encoder,
    OutputDecoder,
    Part,
    Shrunk,
    SpecError,
    Views,
)  # fmt: skip
from omniform.prompt import Prompt
from omniform.release import Adapters, Joined, Layout, Recast
from omniform.stage import Learn, Lora, Source, Stage, Undisclosed

RUNNING = Positions()
MODALITIES = ("text", "image", "video", "audio", "points")


# --- system ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class System:
    """One large multimodal model.

    Attributes:
        slug: its name everywhere.
        positions: the rule for position ids.
        special_tokens: strings added to the backbone's tokenizer, in order; "{audio}" stands for all tokens of that
            codec, which otherwise come after them.
        published_params: part path (or "total") -> published number of parameters.
        variants: name -> differences (dotted path -> value) of the other released sizes.
        survey_notes: column of the survey's table -> why its cell differs from what is derived here.
    """

    implementation: ClassVar[str] = "omniform.model:Lmm"

    slug: str
    title: str
    date: str
    inputs: Mapping[str, Input]
    backbone: Backbone
    outputs: Mapping[str, OutputDecoder]
    prompt: Prompt
    stages: tuple[Stage, ...]
    layout: Layout
    source: Source
    positions: Positions = RUNNING
    special_tokens: tuple[str, ...] = ()
    published_params: Mapping[str, int] = FrozenMap()
    variants: Mapping[str, Mapping[str, Any]] = FrozenMap()
    survey_notes: Mapping[str, str] = FrozenMap()

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "published_params", "variants", "survey_notes"):
            object.__setattr__(self, name, FrozenMap(getattr(self, name)))
        _check(self)

    # -- types, derived --

    @property
    def input_type(self) -> Literal["A", "B"]:
        """A: some modality enters as continuous features. B: everything enters as discrete tokens."""
        return "A" if any(isinstance(i, Continuous) for i in self.inputs.values()) else "B"

    @property
    def output_type(self) -> Literal[1, 2, 3]:
        """1: text. 2: text and continuous features. 3: text and discrete modality tokens."""
        forms = {o.form for o in self.outputs.values()}
        return 3 if "discrete" in forms else 2 if "continuous" in forms else 1

    @property
    def loss_weights(self) -> dict[str, float]:
        """Name of every loss -> its factor in the sum: one for each output, and the backbone's own."""
        return {**{modality: output.weight for modality, output in self.outputs.items()}, **self.backbone.losses}

    # -- parts --

    def coded(self, modality: str) -> Coded:
        """Codec and span of a modality that enters or leaves as codes.

        Raises:
            SpecError: neither an input nor an output of the modality has a codec.
        """
        entry, output = self.inputs.get(modality), self.outputs.get(modality)
        if isinstance(entry, Discrete):
            return entry
        codec, span = (getattr(output, name, None) for name in ("codec", "span"))  # only outputs of codes have them
        if codec is None or span is None:
            raise SpecError(f"{self.slug} has no codec of {modality}: neither its input nor its output names one")
        return Coded(codec=codec, span=span)

    @cached_property
    def tokenised(self) -> tuple[str, ...]:
        """Modalities that enter or leave as tokens of a codec."""
        entering = [m for m, e in self.inputs.items() if isinstance(e, Discrete)]
        leaving = [m for m, o in self.outputs.items() if o.form == "discrete"]
        return tuple(dict.fromkeys((*entering, *leaving)))

    @cached_property
    def told_along(self) -> Mapping[str, ToldAlong]:
        """Modality -> output, of media that are told along with the words of an answer."""
        return FrozenMap({m: o for m, o in self.outputs.items() if isinstance(o, ToldAlong)})

    @property
    def codecs(self) -> Mapping[str, Codec]:
        """Modality -> codec, of what enters or leaves as codes, and what a diffusion model makes the features of."""
        made = {m: o.generator.first_stage for m, o in self.outputs.items() if o.generator}
        coded = {m: self.coded(m).codec for m in self.tokenised} | {m: o.codec for m, o in self.told_along.items()}
        return FrozenMap({**{m: codec for m, codec in made.items() if codec}, **coded})

    @cached_property
    def written(self) -> tuple[str, ...]:
        """Modalities besides text that it can write."""
        return tuple(m for m, o in self.outputs.items() if o.form == "discrete" or o.generator)

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Special tokens, those of all codecs, in order, and signals: what the tokenizer must know."""
        coded = {m: (self.coded(m).span, self.codecs[m]) for m in self.tokenised}
        spans = {f"{{{m}}}": tuple(span.names(c.codebook * c.books)) for m, (span, c) in coded.items()}
        placed = (name for token in self.special_tokens for name in spans.get(token, (token,)))
        signals = (token for output in self.outputs.values() for token in output.signal)
        return tuple(dict.fromkeys((*placed, *(name for names in spans.values() for name in names), *signals)))

    def writes_signal(self, modality: str) -> bool:
        """Whether signal tokens stand for media of a modality that it writes."""
        output = self.outputs.get(modality)
        return output is not None and bool(output.signal)

    def read(self, modality: str) -> Continuous | Discrete:
        """The input of a modality, whatever its kind.

        Raises:
            SpecError: the system does not read that modality.
        """
        entry = self.inputs.get(modality)
        return entry if isinstance(entry, Discrete) else self.continuous(modality)

    def continuous(self, modality: str) -> Continuous:
        """The input of a modality, with what it shares filled in.

        Raises:
            SpecError: the system does not read that modality as features.
        """
        entry = self.inputs.get(modality)
        if isinstance(entry, Shared):
            whole = self.continuous(entry.input)
            return replace(whole, views=entry.views, encoder=entry.encoder or whole.encoder)
        if not isinstance(entry, Continuous):
            others = ", ".join(self.inputs) or "only text"
            how = f"{modality} as tokens, not as features" if entry else f"{others}, not {modality}"
            raise SpecError(f"{self.slug} reads {how}")
        return entry

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        """Modality -> encoder, of inputs that have one of their own."""
        own = ((m, e.encoder) for m, e in self.inputs.items() if not isinstance(e, Discrete))
        return FrozenMap({modality: encoder for modality, encoder in own if encoder})

    def reader(self, modality: str) -> str:
        """The input whose encoder reads a modality."""
        entry = self.inputs[modality]
        return entry.input if isinstance(entry, Shared) and not entry.encoder else modality

    def owner(self, modality: str) -> str:
        """The input whose connector and fusion take a modality."""
        entry = self.inputs[modality]
        return entry.input if isinstance(entry, Shared) else modality

    def parts(self) -> dict[str, Part]:
        """Part path -> declaration, for every part with weights of its own."""
        found: dict[str, Part] = {f"{modality}.encoder": encoder for modality, encoder in self.encoders.items()}
        for modality, entry in self.inputs.items():
            if isinstance(entry, Continuous):
                found[f"{modality}.connector"] = entry.connector
                found[f"{modality}.fusion"] = entry.fusion
        found.update({f"{modality}.codec": codec for modality, codec in self.codecs.items()})
        found["backbone"] = self.backbone
        found.update({f"{modality}.decoder": decoder for modality, decoder in self.outputs.items()})
        found.update({f"{m}.diffusion": output.generator for m, output in self.outputs.items() if output.generator})
        return found

    def plan(self, modality: str, media: MediaSize) -> Plan:
        """Views and positions of one medium."""
        entry = self.read(modality)
        return entry.views.plan(media, entry.sight())

    def build(self) -> Any:
        """The `nn.Module` of the whole: an `Lmm`."""
        return resolve(self.implementation)(self)

    # -- copies --

    def but(self, changes: Mapping[str, Any] | None = None, **fields_: Any) -> Self:
        """A copy with changes, all made at once; keys may be dotted paths: `system.but({"backbone.layers": 2})`.

        Raises: as `change.changed`.
        """
        return cast(Self, changed(self, {**(changes or {}), **fields_}))

    def variant(self, name: str) -> Self:
        """One of the other released sizes.

        Raises:
            UnknownName: no such variant; the nearest names are given.
        """
        if name not in self.variants:
            raise unknown(f"variant of {self.slug}", name, self.variants)
        return self.but(self.variants[name])

    def shrunk(self, size: Shrunk) -> Self:
        """The same composition with every part at `tiny` or `nano` size."""

        def small(entry: Input) -> Input:
            if isinstance(entry, Discrete):
                codec = entry.codec.shrunk(size)
                own = entry.views.shrunk(size).rescaled(entry.codec.size[0], codec.size[0])
                return replace(entry, codec=codec, views=own)
            if isinstance(entry, Shared):
                return replace(entry, encoder=entry.encoder and entry.encoder.shrunk(size))
            encoder = entry.encoder.shrunk(size)
            views = entry.views.shrunk(size).rescaled(entry.encoder.size[0], encoder.size[0])
            connector, fusion = entry.connector.shrunk(size), entry.fusion.shrunk(size)
            return replace(entry, encoder=encoder, connector=connector, views=views, fusion=fusion)

        inputs: dict[str, Input] = {m: small(e) for m, e in self.inputs.items()}
        for modality, entry in inputs.items():
            if isinstance(entry, Shared):
                old, new = self.continuous(modality).encoder.size[0], _encoder(inputs, modality).size[0]
                inputs[modality] = replace(entry, views=entry.views.shrunk(size).rescaled(old, new))
        return replace(
            self,
            inputs=inputs,
            backbone=self.backbone.shrunk(size),
            outputs={m: o.shrunk(size) for m, o in self.outputs.items()},
            stages=tuple(_small_stage(self, s, inputs, size) for s in self.stages),
            published_params=FrozenMap(),
            variants=FrozenMap(),
        )


def _encoder(inputs: Mapping[str, Input], modality: str) -> Encoder:
    """The encoder that reads a modality."""
    entry = inputs[modality]
    if isinstance(entry, Shared) and not entry.encoder:
        entry = inputs[entry.input]
    if not isinstance(entry, Discrete) and entry.encoder:
        return entry.encoder
    raise SpecError(f"{modality} has no encoder to share")


def _small_stage(system: System, stage: Stage, inputs: Mapping[str, Input], size: Shrunk) -> Stage:
    """A stage of the shrunk system; "later layers" become all but the first, which every small part has."""
    views = {}
    for modality, own in stage.views.items():
        old, new = _encoder(system.inputs, modality).size[0], _encoder(inputs, modality).size[0]
        views[modality] = own.shrunk(size).rescaled(old, new)
    learn = tuple(replace(entry, first_layer=min(entry.first_layer, 1)) for entry in stage.learn)
    return replace(stage, views=views, learn=learn)


# --- validation --------------------------------------------------------------------------------------------------


def _check(system: System) -> None:
    if "text" not in system.outputs:
        named = ", ".join(system.outputs) or "nothing"
        raise SpecError(f"{system.slug}: outputs name {named}; text must be one of them")
    for modality in (*system.inputs, *system.outputs):
        if modality not in MODALITIES:
            raise unknown("modality", modality, MODALITIES)
    for modality, entry in system.inputs.items():
        _check_input(system, modality, entry)
    _check_positions(system)
    _check_codecs(system)
    known = {*system.parts(), *(f"{m}.fusion" for m in system.inputs)}
    known |= {"backbone.experts"} if system.backbone.experts_part else set()
    for stage in system.stages:
        _check_stage(system, stage, known)


def _check_stage(system: System, stage: Stage, known: set[str]) -> None:
    for learn in (*stage.learn, *((stage.lora,) if stage.lora else ())):
        if learn.part not in known:
            raise unknown(f"part to learn in stage {stage.name!r} of {system.slug}", learn.part, known)
    for output in stage.outputs:
        if output not in system.outputs:
            raise unknown(f"output in stage {stage.name!r} of {system.slug}", output, system.outputs)
    for item in stage.learn:
        _check_tokens(system, stage, item)
    for modality in stage.views:
        if modality not in system.inputs:
            raise unknown(f"input in the views of stage {stage.name!r} of {system.slug}", modality, system.inputs)
        _check_scales(system, f"stage {stage.name!r}", modality, stage.views[modality])


def _check_tokens(system: System, stage: Stage, item: Learn) -> None:
    if item.head and not item.tokens:
        raise SpecError(
            f"{system.slug}, stage {stage.name!r}: rows of the output head learn for the tokens that are named, but "
            f"{item.part} names none; give tokens, or let the whole part learn without head"
        )
    if not item.tokens:
        return
    if item.part != "backbone" or item.first_layer:
        raise SpecError(
            f"{system.slug}, stage {stage.name!r}: embeddings of tokens learn in the backbone as a whole, not in "
            f"{item.part} from layer {item.first_layer} on; name the part 'backbone' without first_layer"
        )
    for token in item.tokens:
        if token not in system.special_tokens:
            raise unknown(
                f"special token to learn in stage {stage.name!r} of {system.slug}", token, system.special_tokens
            )


def _check_positions(system: System) -> None:
    """The rule for position ids must have the axes that the backbone reads."""
    if system.positions.axes != system.backbone.position_axes:
        raise SpecError(
            f"{system.slug}: positions of media {system.positions.media!r} have {system.positions.axes} axes, the "
            f"backbone {type(system.backbone).__name__} reads {system.backbone.position_axes}; change one of them"
        )


def _check_codecs(system: System) -> None:
    for modality, codec in system.codecs.items():
        if codec.modality != modality:
            raise SpecError(f"{system.slug}: {type(codec).__name__} codes {codec.modality}, but stands at {modality!r}")
    for modality, made in ((m, output.generator) for m, output in system.outputs.items() if output.generator):
        if made.modality != modality:
            raise SpecError(f"{system.slug}: {type(made).__name__} makes {made.modality}, but stands at {modality!r}")
        if made.first_stage not in (None, system.codecs.get(modality)):
            raise SpecError(f"{system.slug}: {made.title} is on another codec than {modality} has codes of; use one")


def _check_scales(system: System, who: str, modality: str, views: Views) -> None:
    """Views beside an input's own feed the same connector, so they must join as many scales."""
    own = system.continuous(modality).views
    if views.scales != own.scales:
        raise SpecError(
            f"{system.slug}: {who} has views that join {views.scales} scales on channels, but the connector of "
            f"{modality} reads {own.scales}; repeat the features (copies={own.scales}) or use views of as many scales"
        )


def _check_widths(system: System, modality: str, entry: Shared) -> None:
    """An encoder beside an input's own feeds the same connector, so its features must be as wide."""
    own, other = system.continuous(modality).encoder, system.continuous(entry.input).encoder
    if own.dims != other.dims:
        raise SpecError(
            f"{system.slug}: {type(own).__name__} gives {modality} features of widths {own.dims}, but the connector of "
            f"{entry.input} that it shares reads {other.dims}; make them equal, or give {modality} a connector"
        )


def _check_input(system: System, modality: str, entry: Input) -> None:
    if isinstance(entry, Shared):
        if not isinstance(system.inputs.get(entry.input), Continuous):
            why = f"{modality} shares the input {entry.input!r}, which is not a continuous input"
            raise SpecError(f"{system.slug}: {why}; inputs are {', '.join(system.inputs)}")
        _check_scales(system, modality, entry.input, entry.views)
        _check_widths(system, modality, entry)
    if not isinstance(entry, Discrete) and entry.encoder and entry.encoder.modality != modality:
        name = type(entry.encoder).__name__
        raise SpecError(f"{system.slug}: {name} encodes {entry.encoder.modality}, but stands at input {modality!r}")
    if isinstance(entry, Continuous):
        entry.fusion.check(system.backbone)
    if modality not in system.prompt.media:
        raise SpecError(f"{system.slug}: the prompt has no template for {modality}, which the system reads")
    system.plan(modality, system.read(modality).usual)


__all__ = [
    "MODALITIES", "Adapters", "Continuous", "Discrete", "Input", "Joined", "Layout", "Learn", "Lora", "Recast",
    "Shared", "Source", "SpecError", "Stage", "System", "Undisclosed",
]  # fmt: skip
