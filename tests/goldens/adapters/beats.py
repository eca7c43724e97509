"""BEATs: the encoder with its classifier, the tokenizer, and how many patches a sound has."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from omniform.encoders.beats import FRAME, SHIFT, Beats
from omniform.encoders.beats_tokenizer_module import BeatsTokenizer
from omniform.geometry import SpecError

from ..golden import Golden
from ..runner import GIVEN
from ._load import load


def run(golden: Golden) -> dict[str, Any]:
    if golden.data:
        return geometry(golden)
    return labels(golden) if "labels" in golden.expected else classes(golden)


def spec_of(config: dict[str, Any]) -> Beats:
    """The declaration of a checkpoint's "cfg"."""
    return Beats(**Beats.fields_of(config))


def classes(golden: Golden) -> dict[str, Tensor]:
    module = spec_of(golden.config).build()
    load(module, golden.params, Beats.released)
    banks = module.eval().normalise(golden.inputs["waveform"][:, None])
    features = module(banks).values
    return {"fbank": banks, "features": features, "probs": module.probabilities(features)}


def labels(golden: Golden) -> dict[str, Tensor]:
    config = golden.config
    module = BeatsTokenizer(spec_of(config), config["quant_n"], config["quant_dim"])
    load(module, golden.params, Beats.released)
    projected = module.eval().projected(golden.inputs["waveform"][:, None])
    found = module.labels(projected)
    return {"quantize_input": projected, "quantize_feature": module.quantised(found), "labels": found.flatten()}


def geometry(golden: Golden) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, case in enumerate(golden.data["cases"]):
        samples = case["samples_16k"]
        found |= {
            f"cases/{i}/samples_16k": GIVEN,
            f"cases/{i}/fbank_frames": 1 + (samples - FRAME) // SHIFT,
            f"cases/{i}/beats_tokens": _tokens(samples),
        }
    return found


def _tokens(samples: int) -> int:
    try:
        steps, bins = Beats().cells((1, samples))
    except SpecError:  # the original gives none; here too short a sound is refused
        return 0
    return steps * bins
