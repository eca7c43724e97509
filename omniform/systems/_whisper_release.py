"""Whisper's encoder under the names of its first release (openai/whisper whisper/model.py)."""

from __future__ import annotations

from omniform.parts import Rules

INSIDE = {
    "attn.query.": "self_attn.q_proj.", "attn.key.": "self_attn.k_proj.", "attn.value.": "self_attn.v_proj.",
    "attn.out.": "self_attn.out_proj.", "attn_ln.": "self_attn_layer_norm.", "mlp.0.": "fc1.", "mlp.2.": "fc2.",
    "mlp_ln.": "final_layer_norm.",
}  # fmt: skip
OUTSIDE = {"positional_embedding": "embed_positions.weight", "ln_post.": "layer_norm."}


def whisper_rules(theirs: str, ours: str, layers: int) -> Rules:
    """Key rules of an encoder of so many layers: released prefix, and our prefix of the encoder."""
    blocks = (
        (f"{theirs}blocks.{i}.{a}", f"{ours}model.layers.{i}.{b}") for i in range(layers) for a, b in INSIDE.items()
    )
    return (*blocks, *((theirs + a, f"{ours}model.{b}") for a, b in OUTSIDE.items()), (theirs, f"{ours}model."))
