"""Releases of low-rank adapters alone: added to the weights that lie elsewhere, and checked like any key."""

import pytest
import releases
import torch
from releases import tiny, write_json
from safetensors.torch import load_file, save_file

from omniform import index
from omniform.weights.layout import CheckpointError, LayoutError
from omniform.weights.load import load_release


def adapted(folder):
    """A release of adapters alone, its language model beside it, and the weights that they make."""
    layout = index.system("speechgpt:7b-com").layout
    model = tiny("speechgpt")
    system = model.system.but({"layout": layout})
    others = releases.publish_as_laid_out(folder, model_of(system, model))
    state, adapters = model.state_dict(), {}
    for name in (n for n in state if n.endswith(("q_proj.weight", "v_proj.weight")) and n.startswith("backbone.")):
        stem = f"base_model.model.{name.removeprefix('backbone.lm.').removesuffix('.weight')}"
        down, up = torch.randn(8, state[name].shape[1]), torch.randn(state[name].shape[0], 8)
        adapters |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        state[name] = state[name] + 2.0 * up @ down
    save_file(adapters, folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"r": 8, "lora_alpha": 16})
    return system, others, state


def model_of(system, model):
    found = system.build()
    found.load_state_dict(model.state_dict())
    return found


def test_adapters_are_added_to_what_lies_elsewhere(tmp_path):
    system, others, state = adapted(tmp_path / "r")
    loaded = load_release(system, tmp_path / "r", separate=others).state_dict()
    assert all(torch.allclose(loaded[name], values, atol=1e-5) for name, values in state.items())
    file = tmp_path / "r" / "adapter_model.safetensors"
    held = load_file(file)
    gone = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    save_file({k: t for k, t in held.items() if k != gone}, file)
    with pytest.raises(LayoutError, match=f"1 missing: {gone}"):
        load_release(system, tmp_path / "r", separate=others)
    save_file({**held, gone: held[gone][:, :4].contiguous(), "more": torch.ones(1)}, file)
    with pytest.raises(
        LayoutError, match=rf"1 left over: more; 1 of another shape: {gone} is \[32, 4\], needed \[32, 8"
    ):
        load_release(system, tmp_path / "r", separate=others)
    write_json(tmp_path / "r" / "adapter_config.json", {"r": 16})
    with pytest.raises(CheckpointError, match="says r 16, but speechgpt has 8"):
        load_release(system, tmp_path / "r", separate=others)
