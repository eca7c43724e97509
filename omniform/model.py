"""System -> nn.Module: encoders, connectors, fusion, backbone and output decoders, joined by one packed sequence.

Names no system and no modality.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Batch, Features, Fused, Loss, MediaBatch, Notes, Placed, Tree
from omniform.geometry import Grid, Plan
from omniform.spec import Continuous, Shared, System
from omniform.views.arrange_module import arrange, chosen, merged_views

EXPERTS = "experts.layers."
"""Prefix before a layer's number in the names of its experts."""


class Reader(nn.Module):
    """Media -> features: an encoder."""

    def __init__(self, spec: Continuous) -> None:
        super().__init__()
        self.encoder: Any = spec.encoder.build()
        self.spec = spec

    def encode(self, media: MediaBatch) -> list[tuple[Features, ...]]:
        """Encode views of equal shape together; for each medium the features of each encoder."""
        by_shape: dict[torch.Size, list[int]] = {}
        for i, views in enumerate(media.views):
            by_shape.setdefault(views.shape[1:], []).append(i)
        out: dict[int, tuple[Features, ...]] = {}
        for members in by_shape.values():
            encoded = self.encoder(self.encoder.normalise(torch.cat([media.views[i] for i in members])))
            streams = encoded if isinstance(encoded, tuple) else (encoded,)
            counts = [len(media.views[i]) // self.spec.encoder.together for i in members]
            split = [f.split(counts) for f in streams]
            out.update(zip(members, zip(*split, strict=True), strict=True))
        return [out[i] for i in range(len(media.views))]

    def example(self, device: torch.device) -> MediaBatch:
        """One black or silent view, for batches that lack the modality."""
        encoder = self.spec.encoder
        plan = self.spec.views.plan(encoder.usual, self.spec.sight())
        dtype = getattr(torch, encoder.stored)
        views = torch.zeros(len(plan.views), *encoder.channels, *plan.size, dtype=dtype, device=device)
        return MediaBatch((views,), (plan,), torch.empty(0, dtype=torch.long, device=device))


class ContinuousInput(Reader):
    """Media -> rows in the backbone's space: encoder, connector, arrangement. Other encoders may share the rest."""

    def __init__(self, spec: Continuous, learned: tuple[str, ...], backbone: nn.Module, dim: int) -> None:
        super().__init__(spec)
        self.connector: Any = spec.connector.build(**spec.widths(dim))
        self.width = spec.width(dim)
        # start like embeddings: normal with std 1/sqrt(dim) (haotian-liu/LLaVA@c121f04 llava_arch.py:75)
        std = self.width**-0.5
        self.learned = nn.ParameterDict({name: nn.Parameter(torch.randn(self.width) * std) for name in learned})
        self.fusion: Any = spec.fusion.build(backbone=backbone, width=self.width)

    def placed(self, read: Sequence[tuple[Reader, MediaBatch]], tree: Tree, like: Tensor) -> Placed:
        """Rows of all media of this input in a batch (none without media), in the type of `like`, and their places."""
        none = torch.empty(0, dtype=torch.long, device=like.device)
        rows = [self(m, by) for by, m in read] or [like.new_empty(0, self.width)]
        media = [m for _, m in read]
        return Placed(
            rows=torch.cat(rows),
            counts=tuple(plan.positions for m in media for plan in m.plans),
            at=torch.cat([none, *(m.at for m in media)]),
            anchors=torch.cat([none.cpu(), *(m.anchors for m in media)]),
            tree=tree,
        )

    def forward(self, media: MediaBatch, by: Reader | None = None) -> Float[Tensor, "rows width"]:
        """Rows of all media, in order, from the own encoder or another; equal media are encoded once."""
        once = media.once
        rows = self.rows((by or self).encode(once), once.plans)
        if not media.same:
            return rows
        firsts = sorted(set(media.same))
        each = dict(zip(firsts, rows.split([plan.positions for plan in once.plans]), strict=True))
        return torch.cat([each[number] for number in media.same])

    def rows(self, encoded: list[tuple[Features, ...]], plans: tuple[Plan, ...]) -> Float[Tensor, "rows width"]:
        """Rows of media whose features (of each encoder) are given."""
        both = zip(encoded, plans, strict=True)
        merged = [tuple(merged_views(features, plan) for features in streams) for streams, plan in both]
        if self.spec.encoder.selects:
            merged = [tuple(chosen(f, p) for f in streams) for streams, p in zip(merged, plans, strict=True)]
        connected, learned = self._connect(merged), dict(self.learned.items())
        return torch.cat([arrange(f, p, learned) for f, p in zip(connected, plans, strict=True)])

    def _connect(self, features: list[tuple[Features, ...]]) -> list[Features]:
        """Connect features of equal grids together."""
        by_grid: dict[tuple[Grid, ...], list[int]] = {}
        for i, streams in enumerate(features):
            by_grid.setdefault(tuple(f.grid for f in streams), []).append(i)
        out: dict[int, Features] = {}
        for members in by_grid.values():
            columns = zip(*(features[i] for i in members), strict=True)
            joined = self.connector(*map(Features.joined, columns))
            out.update(zip(members, joined.split([len(features[i][0].values) for i in members]), strict=True))
        return [out[i] for i in range(len(features))]


class Lmm(nn.Module):
    """A large multimodal model.

    Part paths of the spec ("image.encoder", "backbone") are module paths under `inputs`, here or under `outputs`.
    """

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system
        self.backbone: Any = system.backbone.build()
        self.inputs = nn.ModuleDict()
        for modality, entry in system.inputs.items():
            if isinstance(entry, Continuous):
                sharing = (s for s in system.inputs.values() if isinstance(s, Shared) and s.input == modality)
                views = [entry.views, *(s.views for s in sharing)]
                learned = tuple(dict.fromkeys(name for v in views for name in v.learned))
                self.inputs[modality] = ContinuousInput(entry, learned, self.backbone, system.backbone.dim)
            elif modality in system.encoders:
                self.inputs[modality] = Reader(system.continuous(modality))
        self.codecs = nn.ModuleDict()
        for modality, codec in system.codecs.items():
            read = system.inputs.get(modality)
            lent = isinstance(read, Continuous) and read.lends(codec)
            self.codecs[modality] = codec.build(**({"encoder": self.inputs[modality].encoder} if lent else {}))
        dim, outputs = system.backbone.dim, system.outputs
        self.outputs = nn.ModuleDict({m: o.build(**o.widths(dim, system.inputs)) for m, o in outputs.items()})
        made = {modality: decoder.generator for modality, decoder in outputs.items()}
        self.diffusion = nn.ModuleDict()
        for modality, spec in ((modality, spec) for modality, spec in made.items() if spec):
            stage = {"codec": self.codecs[modality]} if spec.first_stage else {}
            self.diffusion[modality] = spec.build(**stage)
            self.part(f"{modality}.decoder").attach(self.diffusion[modality])
        for modality, looks in ((modality, decoder.looks) for modality, decoder in outputs.items()):
            if looks:
                self.part(f"{modality}.decoder").look(self.stream(looks).encoder)

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "n dim"], Fused | None]:
        """Embeddings of the packed sequence with every medium met, and what the backbone's layers must know of them."""
        x, states = self.backbone.embed(batch.ids), {}
        for name, stream in self.inputs.items():
            if not isinstance(stream, ContinuousInput):
                continue
            read = [(self.reader(m), media) for m, media in batch.media.items() if self.stream(m) is stream]
            x, state = stream.fusion(x, stream.placed(read, batch.tree, x))
            if state is not None:
                states[stream.fusion] = state
            if self.training:
                x = x + self._idle_rows(name, [by for by, _ in read], x)
        return x, Fused(states) if states else None

    def _idle_rows(self, name: str, used: Sequence[Reader], like: Tensor) -> Tensor:
        """Zero, from whatever learns in an input and reads nothing in a batch: ranks stay in step and every trainable
        part has a gradient."""
        stream: Any = self.inputs[name]
        total = torch.zeros((), device=like.device, dtype=like.dtype)
        readers = {self.reader(m): None for m in self.system.inputs if self.system.owner(m) == name}
        for by in (reader for reader in readers if reader not in used):
            if _learns(by.encoder) or (by is stream and not used and _learns(stream)):
                idle = [] if used else [p.sum() for p in stream.fusion.parameters()]
                total = total + 0 * sum(idle, stream(by.example(like.device), by).sum())
        return total

    def hidden(self, batch: Batch, cache: Any = None, notes: Notes | None = None) -> Float[Tensor, "n dim"]:
        """Last hidden states; keys and values are written into `cache`, and what losses need into `notes`, if given."""
        return self.read(batch, cache, notes)[0]

    def read(
        self, batch: Batch, cache: Any = None, notes: Notes | None = None
    ) -> tuple[Float[Tensor, "n dim"], Fused | None]:
        """Last hidden states, and what fusions knew of the sequence (decoding goes on from there)."""
        embeds, fused = self.embed(batch)
        # backbones without layers to attach to need not take these
        more = {name: given for name, given in (("fused", fused), ("notes", notes)) if given is not None}
        return self.backbone(embeds, batch.positions, batch.tree, cache, **more), fused

    def lasts_only(self, batch: Batch) -> AbstractContextManager[None]:
        """Within, work is saved where only the hidden states at the ends of documents are read, and caches."""
        streams: Any = [s for s in self.inputs.values() if isinstance(s, ContinuousInput)]
        inside = any(stream.fusion.in_layers for stream in streams)  # may tell positions apart there
        ends = torch.tensor(batch.tree.lasts, device=batch.ids.device)
        return nullcontext() if inside else self.backbone.last_mlp_at(ends)

    def forward(self, batch: Batch, outputs: Collection[str] = ()) -> dict[str, Loss]:
        """Losses by output, and the backbone's own by name; `System.loss_weights` holds their factors.

        Args:
            outputs: those whose losses are wanted; () is all.
        """
        notes: Notes | None = {} if self.system.backbone.losses else None
        hidden = self.hidden(batch, notes=notes)
        own = {} if notes is None else self.backbone.losses(notes)
        wanted = [(n, m) for n, m in enumerate(self.system.outputs) if not outputs or m in outputs]
        said = {m: self.part(f"{m}.decoder").loss(self.backbone, hidden, batch.of(n, m)) for n, m in wanted}
        return {**said, **own}

    def stream(self, modality: str) -> Any:
        """The input that reads a modality, shared or its own."""
        return self.inputs[self.system.owner(modality)]

    def reader(self, modality: str) -> Any:
        """What encodes a modality: its input, or an encoder of its own before a shared one."""
        return self.inputs[self.system.reader(modality)]

    def part(self, path: str) -> Any:
        """Module of a part path."""
        if path == "backbone":
            return self.backbone
        if path == "backbone.experts":
            return self.backbone.experts
        modality, _, kind = path.partition(".")
        if kind == "decoder":
            return self.outputs[modality]
        if kind in ("codec", "diffusion"):
            return (self.codecs if kind == "codec" else self.diffusion)[modality]
        return getattr(self.inputs[modality], kind)

    def parameters_of(self, path: str, first_layer: int = 0) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters of a part that its output depends on, from a layer on.

        Learned rows (newline ...) belong to the connector, as in released checkpoints.
        """
        part = self.part(path)
        idle = self._idle(path)
        prefix = self._prefix(path)
        for name, parameter in part.named_parameters():
            if not name.startswith(idle) and (not first_layer or _layer(name, part.layer_prefix()) >= first_layer):
                yield prefix + name, parameter
        if path.endswith(".connector"):
            stem = prefix.removesuffix("connector.")
            yield from ((f"{stem}learned.{n}", p) for n, p in self.stream(path.split(".")[0]).learned.items())

    def _idle(self, path: str) -> tuple[str, ...]:
        """Prefixes, in a part, of parameters that its output does not depend on."""
        if path.endswith(".connector"):
            return tuple(prefix for prefix, _ in self.stream(path.split(".")[0]).spec.connector.idle())
        told = path.endswith((".encoder", ".fusion", ".diffusion")) or path == "backbone"
        return tuple(self.part(path).idle()) if told else ()

    def _prefix(self, path: str) -> str:
        if path.startswith("backbone"):
            return f"{path}."
        modality, _, kind = path.partition(".")
        if kind in ("codec", "diffusion"):
            return f"codecs.{modality}." if kind == "codec" else f"diffusion.{modality}."
        return f"outputs.{modality}." if kind == "decoder" else f"inputs.{modality}.{kind}."


def _learns(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _layer(name: str, prefix: str) -> int:
    """Number of the layer a parameter belongs to; -1 for those outside the layers."""
    start = next((p for p in (prefix, EXPERTS) if name.startswith(p)), None)
    return -1 if start is None else int(name.removeprefix(start).split(".")[0])
