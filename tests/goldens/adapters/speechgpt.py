"""SpeechGPT: k-means units, merged, the vocoder that speaks them, prompts, and the parts of an answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omniform import index
from omniform.codecs.units import Vocoder
from omniform.codecs.units_module import Means
from omniform.prompt import Turn

from ..golden import Golden
from ..runner import GIVEN
from ._load import load

SPEAKER, END = "[SpeechGPT] :", "<eoa>"
PARTS = {"textQuestion": "transcript", "textAnswer": "text", "unitAnswer": "speech"}


def run(golden: Golden) -> dict[str, Any]:
    if golden.data:
        return strings(golden)
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


def strings(golden: Golden) -> dict[str, Any]:
    """Prompts and units as text, and the parts of answers as a tokenizer decodes them, with spaces of its own."""
    system = index.system(golden.slug)
    prompt, span = system.prompt, system.coded("audio").span
    asked = "".join(p.text for p in prompt.render([Turn("user", ("{question}",))], answer_next=True))
    merged = torch.unique_consecutive(torch.tensor(golden.data["unit_ids"])).tolist()
    found: dict[str, Any] = {
        "meta_instruction": prompt.system, "template": asked.removeprefix(prompt.system), "unit_ids": GIVEN,
        "unit_string": span.begin + "".join(map(span.name, merged)) + span.end,
    }  # fmt: skip
    for i, case in enumerate(golden.data["postprocess"]):
        asking, said = case["decoded"].split(SPEAKER)
        said = said.split(END)[0]
        parts = prompt.chain.read(said)
        told = {"question": asking.removeprefix("[Human]").split("<eoh>")[0], "answer": said}
        told |= {theirs: parts.get(ours, "") for theirs, ours in PARTS.items()}
        found |= {f"postprocess/{i}/parsed/{key}": value for key, value in told.items()}
        found[f"postprocess/{i}/decoded"] = GIVEN
    return found
