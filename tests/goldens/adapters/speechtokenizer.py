"""SpeechTokenizer: latents, codes from any book on, waveforms from any books, what the first one says; frames."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from omniform.codecs.speech_tokenizer import SPEECH_TOKENIZER, SpeechTokenizer

from ..golden import Golden
from ..runner import GIVEN
from ._load import load


def run(golden: Golden) -> dict[str, Any]:
    return geometry(golden) if golden.data else whole(golden)


def geometry(golden: Golden) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, case in enumerate(golden.data["cases"]):
        frames = SPEECH_TOKENIZER.cells((case["samples"],))[0]
        told = {"samples": GIVEN, "frames": frames, "decoded_samples": frames * SPEECH_TOKENIZER.hop}
        found |= {f"cases/{i}/{key}": value for key, value in told.items()}
    return found


def whole(golden: Golden) -> dict[str, Tensor]:
    said = golden.config
    spec = SpeechTokenizer(
        rate=said["sample_rate"], ratios=tuple(said["strides"]), filters=said["n_filters"], dim=said["dimension"],
        entries=said["codebook_size"], streams=said["n_q"], held=said["n_q"], residuals=said["n_residual_layers"],
        lstm=said["lstm_layers"], semantic=said["semantic_dimension"],
    )  # fmt: skip
    part = spec.build().eval()
    load(part, golden.params, (("", ""),))
    wave = golden.inputs["waveform"][:, 0]
    latents = part.latents(wave)
    codes, given = part.streams(latents), golden.inputs["codes"].permute(1, 2, 0)
    layers = [part.entries(codes[..., i : i + 1], i).transpose(1, 2) for i in range(spec.held)]
    return {
        "encoder_out": latents.transpose(1, 2), "codes": codes.permute(2, 0, 1),
        "codes_1q_from1": part.streams(latents, 1, 2).permute(2, 0, 1),
        "rvq_layer0": layers[0], "rvq_layer2": layers[2], "semantic_feature": part.said(wave),
        "recon": part.waves(part.entries(codes))[:, None],
        "decode_given": part.decode(given.flatten(1))[:, None],
        "decode_first_layer": part.waves(part.entries(given[..., :1]))[:, None],
        "decode_from_layer1": part.waves(part.entries(given[..., 1:], 1))[:, None],
    }  # fmt: skip
