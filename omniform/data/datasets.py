"""The names under which recipes open datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from omniform.data.dataset import Dataset, Joined
from omniform.data.easy_vqa import EasyVqa
from omniform.data.files import ChatRecords, LlavaJson
from omniform.data.moving_shapes import MovingShapes
from omniform.data.openmoji import OpenMoji
from omniform.data.spoken import Spoken
from omniform.data.tones import Tones
from omniform.frozen import FrozenMap
from omniform.index import unknown

KINDS: Mapping[str, Callable[..., Dataset]] = FrozenMap(
    {
        "easy-vqa": EasyVqa,
        "moving-shapes": MovingShapes,
        "openmoji": OpenMoji,
        "spoken": Spoken,
        "tones": Tones,
        "llava-json": LlavaJson,
        "chat": ChatRecords,
    }
)


def open_dataset(config: Mapping[str, Any]) -> Dataset:
    """The dataset of `{"kind": name, ...arguments}`.

    Raises:
        UnknownName: no such kind, or an argument it does not take; the nearest names are given.
        DataError: its files cannot be used.
    """
    arguments = dict(config)
    kind = arguments.pop("kind", "")
    if kind not in KINDS:
        raise unknown("dataset", kind, KINDS)
    maker: Any = KINDS[kind]
    known = [f.name for f in fields(maker) if f.init]
    for name in arguments:
        if name not in known:
            raise unknown(f"argument of dataset {kind}", name, known)
    return maker(**arguments)


def open_datasets(configs: Sequence[Mapping[str, Any]]) -> Dataset:
    """Datasets one after the other, as one.

    Raises: as `open_dataset`.
    """
    parts = tuple(map(open_dataset, configs))
    return parts[0] if len(parts) == 1 else Joined(parts)
