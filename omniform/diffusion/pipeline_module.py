"""Running a pipeline of diffusers on conditions that were made elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def made_by(
    pipeline: Any, condition: Tensor, nothing: Tensor, random: torch.Generator, guidance: float, steps: int, **own: Any
) -> Any:
    """What a pipeline makes of conditions, without a progress bar.

    Args:
        nothing: condition that guidance leads away from, shaped as `condition`.
        random: noise that denoising starts from.
        own: further arguments of this pipeline.
    """
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt_embeds=condition, negative_prompt_embeds=nothing, generator=random, guidance_scale=guidance,
        num_inference_steps=steps, **own,
    )  # fmt: skip
