"""A directory that transformers' own classes load, with the same computation inside.

The class is named by the system's layout (`Layout.transformers`); everything its configuration and its processor say
follows from the composition. What does not fit is refused, never approximated.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from omniform.backbones.decoder_module import DecoderModule
from omniform.connectors.mlp import Mlp
from omniform.encoders.vit import Vit
from omniform.encoders.vit_module import VitModule
from omniform.frozen import FrozenMap
from omniform.parts import Rules
from omniform.spec import Continuous, System
from omniform.views.among import Among
from omniform.views.any_res import AnyRes
from omniform.views.fixed import Fixed
from omniform.weights.atomic import atomic_directory
from omniform.weights.fill import fill, move_constants, slots, without_memory
from omniform.weights.layout import CheckpointError, match

TOKENS = ("image", "video")
"""Modalities for which transformers' processors take a token, written "<image>"."""
RESAMPLE: Mapping[str, int] = FrozenMap(bicubic=3, bilinear=2)
"""PIL's numbers of the filters."""
UNUSED = "vision_tower.post_layernorm."
"""Norm after the last layer: no feature depends on it, and some releases leave it out."""


class ExportError(CheckpointError):
    """A model that no class of transformers computes; the message says what differs."""


def export_transformers(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write a model as a transformers checkpoint with its processor, whole or not at all.

    Args:
        model: an `Lmm` that reads images and writes text.
        tokenizer: its transformers tokenizer; a copy gets the image token, which takes a row of its own.

    Raises:
        ExportError: transformers has no class for the composition.
        CheckpointError: the directory cannot be written.
    """
    image = _image(model.system)
    kind = _class(model.system)
    tokenizer = _with_tokens(tokenizer, model.system)
    config = _config(kind, model, image, tokenizer)
    with without_memory():
        theirs = kind(config)
    fill(theirs, _tensors(model, theirs, image))
    move_constants(theirs, "cpu")
    theirs.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    try:
        with atomic_directory(folder) as partial:
            theirs.save_pretrained(partial)
            _save_processor(config, image, tokenizer, partial)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}; what stood there before is untouched") from error


# --- what fits ---------------------------------------------------------------------------------------------------


def _image(system: System) -> Continuous:
    """The image input, when all of the composition can be said in transformers' words.

    Raises:
        ExportError: something cannot.
    """
    image = system.inputs.get("image")
    problems = [f"{system.slug} has no image input of its own"] if not isinstance(image, Continuous) else []
    problems += [f"it writes {name}" for name in system.outputs if name != "text"]
    if isinstance(image, Continuous):
        problems += _misfits(image)
    if problems or not isinstance(image, Continuous):
        raise ExportError(f"{system.slug} cannot be exported to transformers: {'; '.join(problems)}")
    return image


def _misfits(image: Continuous) -> Iterator[str]:
    if not isinstance(image.encoder, Vit):
        yield f"encoder {type(image.encoder).__name__} is not a CLIP or SigLIP tower"
    if not isinstance(image.connector, Mlp) or image.connector.depth != 2:
        yield f"connector {image.connector} is not the MLP of two layers that transformers has"
    alone = image.views.alone if isinstance(image.views, Among) else image.views
    if isinstance(alone, AnyRes) and (alone.fill != (0, 0, 0) or alone.newline is None):
        yield "tiles stand on black and end their rows with a newline in transformers"
    if isinstance(alone, Fixed) and (alone.fill is not None or alone.newline or alone.copies > 1):
        yield "one view is padded with the mean colour, without newline and copies, in transformers"
    if not isinstance(alone, AnyRes | Fixed):
        yield f"transformers has no views like {type(alone).__name__}"


def _class(system: System) -> Any:
    if not system.layout.transformers:
        raise ExportError(f"{system.slug} cannot be exported: transformers has no class for it (Layout.transformers)")
    kind = getattr(transformers, system.layout.transformers, None)
    if not isinstance(kind, type) or not issubclass(kind, PreTrainedModel):
        raise ExportError(f"{system.slug}: transformers {transformers.__version__} has no {system.layout.transformers}")
    return kind


# --- configuration -----------------------------------------------------------------------------------------------


def _config(kind: Any, model: Any, image: Continuous, tokenizer: Any) -> Any:
    """The class's configuration; of what could be said, the fields that it has."""
    tower: Any = model.stream("image").encoder
    backbone: Any = model.backbone
    if not isinstance(tower, VitModule) or not _runs_as_it_is(backbone):
        raise ExportError(
            f"{model.system.slug} cannot be exported: {type(backbone).__name__} differs from transformers"
        )
    known = kind.config_class().to_dict()
    ids = {f"{m}_token_index": tokenizer.convert_tokens_to_ids(f"<{m}>") for m in TOKENS if m in model.system.inputs}
    text = {
        **backbone.lm.config.to_dict(), "vocab_size": max(model.system.backbone.vocab, *(i + 1 for i in ids.values())),
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    said = {
        "text_config": text, "vision_config": tower.model.config.to_dict(), **ids,
        "tie_word_embeddings": model.system.backbone.tied, "projector_hidden_act": "gelu",
        "vision_feature_layer": tower.spec.feature_layer, "vision_feature_select_strategy": _selects(tower.spec),
        "image_seq_length": _cells(image), **_tiles(image),
    }  # fmt: skip
    return kind.config_class(**{key: value for key, value in said.items() if key in known})


def _runs_as_it_is(backbone: Any) -> bool:
    """Whether transformers' own forward is the whole computation."""
    own = isinstance(backbone, DecoderModule)
    return own and type(backbone).embed is DecoderModule.embed and type(backbone).forward is DecoderModule.forward


def _selects(encoder: Vit) -> str:
    """ "default" drops the first row of the tower."""
    return "default" if encoder.class_token or encoder.drop_first else "full"


def _cells(image: Continuous) -> int:
    rows, *columns = image.cells(image.encoder.size)
    return rows * (columns[0] if columns else 1)


def _tiles(image: Continuous) -> dict[str, Any]:
    alone = image.views.alone if isinstance(image.views, Among) else image.views
    if not isinstance(alone, AnyRes):
        return {}
    side = image.encoder.size[0]
    points = [[rows * side, columns * side] for rows, columns in alone.grids]
    limit = {"vision_aspect_ratio": f"anyres_max_{alone.max_tiles}"} if alone.max_tiles else {}
    return {"image_grid_pinpoints": points, **limit}


def _save_processor(config: Any, image: Continuous, tokenizer: Any, folder: Path) -> None:
    """Tokenizer and image processor as one, by the names that belong to the class."""
    encoder: Any = image.encoder
    kind = getattr(transformers, PROCESSOR_MAPPING_NAMES[config.model_type])
    pictures = getattr(transformers, IMAGE_PROCESSOR_MAPPING_NAMES[config.model_type]["pil"])(**_pixels(image))
    known = inspect.signature(kind.__init__).parameters
    said = {
        "patch_size": encoder.patch, "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": int(encoder.class_token), "num_image_tokens": _cells(image), **_tiles(image),
    }  # fmt: skip
    said = {key: value for key, value in said.items() if key in known}
    pictures.save_pretrained(folder)
    if "video_processor" not in known:
        kind(image_processor=pictures, tokenizer=tokenizer, **said).save_pretrained(folder)
        return
    # a processor with videos can be made only where torchvision is; its files can be written anywhere
    tokenizer.save_pretrained(folder)
    side = {"height": encoder.size[0], "width": encoder.size[1]}
    video = {"image_mean": list(encoder.mean), "image_std": list(encoder.std), "size": side, "resample": 3}
    video["video_processor_type"] = VIDEO_PROCESSOR_MAPPING_NAMES[config.model_type]
    whole = {"processor_class": kind.__name__, **said}
    for name, content in (("processor_config.json", whole), ("video_preprocessor_config.json", video)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _pixels(image: Continuous) -> dict[str, Any]:
    """What the image processor does: resize, pad or cut, normalise."""
    encoder, side = image.encoder, image.encoder.size[0]
    alone = image.views.alone if isinstance(image.views, Among) else image.views
    square = {"height": side, "width": side}
    squash = isinstance(alone, AnyRes) or (isinstance(alone, Fixed) and alone.fit == "squash")
    pixels: dict[str, Any] = {
        "image_mean": list(encoder.mean), "image_std": list(encoder.std), "resample": RESAMPLE[encoder.resample],
        "size": square if squash else {"shortest_edge": side}, "do_center_crop": not squash,
        "crop_size": square,  # also the side of a tile
    }  # fmt: skip
    if isinstance(alone, Fixed):
        pixels["do_pad"] = alone.fit == "pad"
    if isinstance(alone, AnyRes):
        pixels["image_grid_pinpoints"] = _tiles(image)["image_grid_pinpoints"]
    return pixels


def _with_tokens(tokenizer: Any, system: System) -> Any:
    """A copy that knows the tokens of the media."""
    ours = copy.deepcopy(tokenizer)
    ours.add_special_tokens({"additional_special_tokens": [f"<{m}>" for m in TOKENS if m in system.inputs]})
    return ours


# --- weights -----------------------------------------------------------------------------------------------------


def _rules(model: Any, image: Continuous) -> Rules:
    """(our prefix, theirs)."""
    trunk = f"backbone.lm.{model.backbone.lm.base_model_prefix}."
    newline = [(f"inputs.image.learned.{name}", "model.image_newline") for name in image.views.learned]
    return (
        (trunk, "model.language_model."),
        ("backbone.lm.", ""),
        ("inputs.image.encoder.model.", "model.vision_tower."),
        ("inputs.image.connector.layers.0.", "model.multi_modal_projector.linear_1."),
        ("inputs.image.connector.layers.2.", "model.multi_modal_projector.linear_2."),
        *newline,
    )


def _tensors(model: Any, theirs: Any, image: Continuous) -> Iterator[tuple[str, Tensor]]:
    """Our tensors under their names; the embedding grows by the image token's row.

    Raises:
        ExportError: one side has a tensor that the other lacks.
    """
    state, needed = model.state_dict(), slots(theirs)
    held = {name: shape for name, shape in slots(model).shapes.items()}
    found = match(held, needed.shapes, _rules(model, image), needed.aliases)
    missing = [name for name in found.missing if UNUSED not in name]
    if missing or found.left_over:
        lacks = f"transformers has no place for {', '.join(found.left_over[:3])}" if found.left_over else ""
        wants = f"the model has no {', '.join(missing[:3])}" if missing else ""
        raise ExportError(f"{model.system.slug} cannot be exported: {' and '.join(filter(None, (lacks, wants)))}")
    for name, key in found.found.items():
        yield name, _grown(state[key].detach().cpu(), needed.shapes[name])
    for name in found.missing:
        whole = torch.ones if name.endswith("weight") else torch.zeros
        yield name, whole(needed.shapes[name])


def _grown(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows for new tokens at the end: the mean of the others, which no decoding prefers."""
    if tuple(values.shape) == shape:
        return values
    mean = values.float().mean(0, keepdim=True).to(values.dtype)
    return torch.cat([values, mean.expand(shape[0] - len(values), *shape[1:])])
