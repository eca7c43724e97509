"""Whole LLaVA-like models: pictures already cut and normalised, ids with a placeholder for each, padded rows.

`trace` runs the pieces of our model in the order of `Lmm.embed` and `Lmm.hidden`, on all rows packed together, and
keeps what lies between; `results` lays it out as the originals do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform import index
from omniform.batch import Features, Placed, Tree
from omniform.geometry import MediaSize, Plan
from omniform.spec import System
from omniform.views.arrange_module import merge_scales

from ..golden import Golden
from ._load import build

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How one code base feeds its model.

    Attributes:
        placeholder: id that stands for a whole medium.
        inline: id that fills each position of a medium in the prompt itself, instead of a placeholder.
        text_rows_take_one: whether a row without media passes over one picture.
        last_only: of several media in one row only the last is inserted, the others keep their inline ids.
        modality: input that reads the media.
        separate: prefix of golden keys -> our prefix, for weights outside the release.
        plan: (system, size of the medium, number of views) -> plan, where it is not the system's own.
    """

    placeholder: int = -200
    inline: int | None = None
    text_rows_take_one: bool = True
    last_only: bool = False
    modality: str = "image"
    separate: Mapping[str, str] = field(default_factory=dict)
    plan: Callable[[System, MediaSize, int], Plan] | None = None


@dataclass(frozen=True)
class Traced:
    """What lies between, packed: row after row without padding.

    Attributes:
        encoded: for each medium its features after the encoder (and after joining scales in `merged`).
        connected: for each medium its features after the connector.
        lengths: positions of each row.
        positions: position ids.
    """

    encoded: list[Features]
    merged: list[Features]
    connected: list[Features]
    embeds: Tensor
    logits: Tensor
    lengths: list[int]
    positions: Tensor
    labels: Tensor


def run(golden: Golden, habits: Habits | None = None) -> dict[str, Tensor]:
    """Results of one golden, the system sized by the golden's configuration."""
    habits = habits or Habits()
    system = index.release(golden.slug, config_of(golden))
    return results(golden, trace(golden, build(system, golden.params, habits.separate), habits))


def config_of(golden: Golden) -> dict[str, Any]:
    """A golden's configuration as a release's config.json has it."""
    nested = [v for v in golden.config.values() if isinstance(v, dict)]
    vision = next(v for v in nested if "patch_size" in v)
    language = next(v for v in nested if "vocab_size" in v)
    return {**language, "vision_config": vision}


def pictures_of(golden: Golden) -> list[Tensor]:
    """For each medium its normalised views."""
    inputs = golden.inputs
    numbered = sorted((k for k in inputs if re.fullmatch(r"pixel_values\d+", k)), key=lambda k: int(k[12:]))
    if numbered:
        return [inputs[k] for k in numbered]
    return list(inputs.get("pixel_values", inputs.get("images")).unsqueeze(1))


# --- forward -----------------------------------------------------------------------------------------------------


def trace(golden: Golden, model: Any, habits: Habits) -> Traced:
    """The golden's inputs through the model's pieces."""
    stream = model.stream(habits.modality)
    pictures = pictures_of(golden)
    plans = tuple(_plan(golden, model.system, habits, i, len(p)) for i, p in enumerate(pictures))
    encoded = [stream.encoder(p) for p in pictures]
    merged = [merge_scales(f, p) if p.scales else f for f, p in zip(encoded, plans, strict=True)]
    rows = [stream.rows([(f,)], (p,)) for f, p in zip(encoded, plans, strict=True)]
    return of_rows(golden, model, rows, (encoded, merged, [stream.connector(f) for f in merged]), habits)


def of_rows(
    golden: Golden,
    model: Any,
    rows: list[Tensor],
    features: tuple[list[Features], list[Features], list[Features]],
    habits: Habits | None = None,
) -> Traced:
    """The golden's ids with the rows of each medium through the language model.

    Args:
        features: encoded, merged and connected, as in `Traced`.
    """
    habits = habits or Habits()
    ids, labels, media, lengths = _sequences(golden, rows, habits)
    x = model.backbone.embed(ids)
    if media:
        found, at = torch.cat([rows[number] for number, _ in media]), torch.cat([at for _, at in media])
        counts, anchors = tuple(len(rows[number]) for number, _ in media), torch.stack([at[0] for _, at in media])
        x, _ = model.stream(habits.modality).fusion(x, Placed(found, counts, at, anchors, Tree.of(lengths)))
    positions = torch.cat([torch.arange(n) for n in lengths])
    said = (golden.config, *(v for v in golden.config.values() if isinstance(v, dict)))
    limit = next((c["tokenizer_model_max_length"] for c in said if c.get("tokenizer_model_max_length")), None)
    if limit:  # rows are cut when their media have taken their positions
        kept = positions < limit
        x, labels, positions = x[kept], labels[kept], positions[kept]
        lengths = [min(n, limit) for n in lengths]
    hidden = model.backbone(x, positions, Tree.of(lengths))
    return Traced(*features, x, model.backbone.logits(hidden), lengths, positions, labels)


def _plan(golden: Golden, system: System, habits: Habits, number: int, views: int) -> Plan:
    side = system.continuous(habits.modality).encoder.size
    size = MediaSize(width=side[1], height=side[0])
    if "image_sizes_wh" in golden.inputs:
        width, height = golden.inputs["image_sizes_wh"][number].tolist()
        size = MediaSize(width=width, height=height)
    plan = habits.plan(system, size, views) if habits.plan else system.plan(habits.modality, size)
    if len(plan.views) != views:
        raise ValueError(f"medium {number} of {size.width}x{size.height}: {len(plan.views)} views, golden has {views}")
    return plan


def _sequences(
    golden: Golden, rows: list[Tensor], habits: Habits
) -> tuple[Tensor, Tensor, list[tuple[int, Tensor]], list[int]]:
    """Packed ids and labels, (medium, its positions) pairs, and the length of each row."""
    given = golden.inputs["input_ids"]
    kept = golden.inputs.get("attention_mask", torch.ones_like(given)).bool()
    labels = golden.inputs.get("labels", torch.full_like(given, IGNORED))
    ids: list[Tensor] = []
    targets: list[Tensor] = []
    media: list[tuple[int, Tensor]] = []
    lengths: list[int] = []
    first = 0
    for row, row_labels, keep in zip(given, labels, kept, strict=True):
        spread = _inline if habits.inline is not None else _replaced
        own_ids, own_labels, places = spread(row[keep], row_labels[keep], rows[first:], habits)
        offset = sum(lengths)
        chosen = places[-1:] if habits.last_only else places
        media += [(first + number, at + offset) for number, at in chosen]
        ids.append(own_ids)
        targets.append(own_labels)
        lengths.append(len(own_ids))
        first += len(places) or int(habits.text_rows_take_one)
    return torch.cat(ids), torch.cat(targets), media, lengths


def _replaced(ids: Tensor, labels: Tensor, rows: list[Tensor], habits: Habits) -> tuple[Tensor, Tensor, list[Any]]:
    """Each placeholder gives way to as many positions as its medium has rows."""
    counts = torch.ones_like(ids)
    marks = (ids == habits.placeholder).nonzero()[:, 0].tolist()
    for number, mark in enumerate(marks):
        counts[mark] = len(rows[number])
    ends = counts.cumsum(0)
    places = [(n, torch.arange(ends[mark] - counts[mark], ends[mark])) for n, mark in enumerate(marks)]
    ids, labels = (x.repeat_interleave(counts) for x in (ids.where(ids != habits.placeholder, 0), labels))
    for _, at in places:
        labels[at] = IGNORED
    return ids, labels, places


def _inline(ids: Tensor, labels: Tensor, rows: list[Tensor], habits: Habits) -> tuple[Tensor, Tensor, list[Any]]:
    """The positions are in the prompt already; runs of the inline id are filled one medium after the other."""
    free = (ids == habits.inline).nonzero()[:, 0]
    places, used = [], 0
    while used < len(free):
        size = len(rows[len(places)])
        places.append((len(places), free[used : used + size]))
        used += size
    return ids.clamp(min=0), labels, places


# --- as the originals lay it out ---------------------------------------------------------------------------------


def results(golden: Golden, traced: Traced) -> dict[str, Tensor]:
    """Padded rows: in the places of the golden's own mask, else on the side where its ids are padded."""
    mask = frame(golden, traced.lengths)
    found = {
        "attention_mask": mask,
        "encoder_features": torch.cat([f.values for f in traced.merged]),
        "connector": torch.cat([f.values for f in traced.connected]),
        "inputs_embeds": padded(traced.embeds, mask),
        "logits": padded(traced.logits, mask),
        "labels": padded(traced.labels, mask, IGNORED),
        "position_ids": padded(traced.positions, mask),
        "loss": loss(traced).reshape(1),
    }
    return found


def frame(golden: Golden, lengths: list[int]) -> Tensor:
    """(rows, longest) mask: 1 where a row's positions go."""
    if "attention_mask" in golden.expected:
        mask = golden.expected["attention_mask"].long()
        if mask.sum(1).tolist() == lengths:
            return mask
    sizes = [t.shape[1] for k, t in golden.expected.items() if k in ("logits", "inputs_embeds")]
    longest = max([*sizes, *lengths])
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    before = golden.inputs.get("attention_mask")
    return mask.flip(1) if before is not None and not bool(before[:, 0].all()) else mask


def padded(flat: Tensor, mask: Tensor, fill: int = 0) -> Tensor:
    """Packed rows in the places of a mask."""
    out = torch.full((*mask.shape, *flat.shape[1:]), fill, dtype=flat.dtype)
    out[mask.bool()] = flat
    return out


def loss(traced: Traced) -> Tensor:
    """Mean cross entropy of every learned id, each predicted from the position before it in its row."""
    starts = torch.tensor([0, *traced.lengths]).cumsum(0)[:-1]
    learned = traced.labels != IGNORED
    learned[starts] = False
    at = learned.nonzero()[:, 0]
    return F.cross_entropy(traced.logits[at - 1].float(), traced.labels[at])
