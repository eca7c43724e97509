"""Cobra: the whole model, its encoders' weights as timm names them, pictures before all words; prompts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform import index
from omniform.backbones.mamba import Mamba
from omniform.batch import Tree
from omniform.encoders.several import Several
from omniform.spec import System
from omniform.systems import cobra

from ..golden import Golden
from . import _texts, _timm
from ._load import build

PROMPTS = {"zephyr": cobra.ZEPHYR, "mamba": cobra.PLAIN_MAMBA}
IGNORED = -100
VISION = (
    ("vision_backbone.dino_featurizer.", "inputs.image.encoder.members.0.", _timm.dinov2_names),
    ("vision_backbone.siglip_featurizer.", "inputs.image.encoder.members.1.", _timm.siglip_names),
    ("vision_backbone.featurizer.", "inputs.image.encoder.", _timm.siglip_names),
)
"""Of the golden -> ours; in releases they lie in repositories of their own."""


def run(golden: Golden) -> dict[str, Any]:
    return _texts.run(golden.data, "cobra", PROMPTS, mark="") if golden.data else whole(golden)


def sized(golden: Golden) -> System:
    said = golden.config
    mamba = said["mamba"]
    backbone = Mamba(dim=mamba["d_model"], layers=mamba["n_layer"], vocab=mamba["vocab_size"], context=2048)
    towers = tuple(kind(said[key]) for key, kind in (("dino", _timm.dinov2), ("siglip", _timm.siglip)) if key in said)
    encoder: Any = Several(members=towers) if len(towers) > 1 else towers[0]
    fewer = said.get("arch", "").endswith("ldpnet")
    system = index.system("cobra:siglip" if len(towers) == 1 else "cobra:ldpnet" if fewer else "cobra")
    return system.but({"inputs.image.encoder": encoder, "backbone": backbone})


def params(golden: Golden) -> dict[str, Tensor]:
    """The golden's weights, its encoders' under the names that their repositories give them, below our prefix."""
    found = {key: t for key, t in golden.params.items() if not key.startswith("vision_backbone.")}
    for theirs, ours, renamed in VISION:
        own = {key.removeprefix(theirs): t for key, t in golden.params.items() if key.startswith(theirs)}
        found |= {ours + key: t for key, t in renamed(own).items()} if own else {}
    return found


def whole(golden: Golden) -> dict[str, Tensor]:
    system, held = sized(golden), params(golden)
    model = build(system, held, {prefix: prefix for prefix in system.layout.separate})
    stream = model.stream("image")
    encoded = stream.encoder(pixels(golden))
    features = encoded if isinstance(encoded, tuple) else (encoded,)
    pictures = stream.connector(*features).values
    x = torch.cat([pictures, model.backbone.embed(golden.inputs["input_ids"])], 1)
    rows, length = x.shape[:2]
    hidden = model.backbone(x.flatten(0, 1), torch.arange(length).repeat(rows), Tree.of([length] * rows))
    logits = model.backbone.logits(hidden).unflatten(0, (rows, length))
    labels = F.pad(golden.inputs["labels"], (pictures.shape[1], 0), value=IGNORED)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    return {
        "patch_features": torch.cat([f.values for f in features], 2), "visual_embeds": pictures, "logits": logits,
        "loss": loss[None],
    }  # fmt: skip


def pixels(golden: Golden) -> Any:
    """What the encoder reads: pixels of each of several, or of one."""
    given = tuple(t for key, t in golden.inputs.items() if key.startswith("pixel"))
    return given if len(given) > 1 else given[0]
