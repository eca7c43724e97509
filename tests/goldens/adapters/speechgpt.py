"""SpeechGPT's codec: k-means units, merged, and the vocoder that speaks them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omniform.codecs.units import Vocoder
from omniform.codecs.units_module import Means

from ..golden import Golden
from ._load import load


def run(golden: Golden) -> dict[str, Any]:
    return means(golden) if "features" in golden.inputs else vocoder(golden)


def means(golden: Golden) -> dict[str, Tensor]:
    part = Means(golden.config["k"], golden.config["dim"])
    load(part, golden.params, (("kmeans.", ""),))
    ids = part.nearest(golden.inputs["features"])
    merged, counts = torch.unique_consecutive(ids, return_counts=True)
    return {"ids": ids, "merged": merged, "durations": counts}


def vocoder(golden: Golden) -> dict[str, Tensor]:
    said = golden.config
    predictor = said["dur_predictor_params"]
    spec = Vocoder(
        dim=said["embedding_dim"], width=said["upsample_initial_channel"], rates=tuple(said["upsample_rates"]),
        kernels=tuple(said["upsample_kernel_sizes"]), block_kernels=tuple(said["resblock_kernel_sizes"]),
        dilations=tuple(map(tuple, said["resblock_dilation_sizes"])), durations=predictor["var_pred_hidden_dim"],
        duration_kernel=predictor["var_pred_kernel_size"],
    )  # fmt: skip
    part = spec.build(units=said["num_embeddings"])
    load(part, golden.params, (("", ""),))
    code = golden.inputs["code"]
    lasts = part.durations(code)
    return {
        "log_dur": part.dur_predictor(part.dict(code)), "dur": lasts, "wave": part(code)[:, None],
        "wave_dur": part(code[0].repeat_interleave(lasts[0])[None])[:, None],
    }  # fmt: skip
