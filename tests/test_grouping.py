"""Cells gathered into groups: the original's numbers, and what the choice of a group does while learning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omniform.batch import Features
from omniform.connectors.grouping import Grouping
from omniform.connectors.grouping_module import Assign
from omniform.geometry import SpecError

GOLDEN = Path(__file__).parent / "goldens" / "next-gpt__inproj_group.safetensors"
SMALL = Grouping(width=16, heads=2, tokens=(10, 4), groups=(10, 4), depths=(2, 1, 1))


@torch.no_grad()
def test_groups_equal_the_originals() -> None:
    held = load_file(GOLDEN)
    module = SMALL.build(in_dim=18, out_dim=20).eval()
    module.load_state_dict({key.removeprefix("param."): t for key, t in held.items() if key.startswith("param.")})
    got, wanted = module(Features(held["in.x"], (24,))), held["out.out"]
    assert got.grid == (4,)
    assert (got.values - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_cell_belongs_to_its_best_group_and_gradients_are_soft() -> None:
    torch.manual_seed(0)
    assign = Assign(SMALL).eval()
    likeness = torch.randn(2, 5, 7, requires_grad=True)
    chosen = assign.choice(likeness)
    assert torch.equal(chosen.round(), torch.nn.functional.one_hot(likeness.argmax(1), 5).transpose(1, 2).float())
    weights = torch.randn_like(likeness)
    (chosen * weights).sum().backward()
    soft = likeness.detach().clone().requires_grad_(True)
    (soft.softmax(1) * weights).sum().backward()
    assert torch.allclose(likeness.grad, soft.grad, atol=1e-6)


def test_noise_makes_the_choice_a_sample_while_learning() -> None:
    torch.manual_seed(0)
    assign = Assign(SMALL).train()
    likeness = torch.tensor([0.0, 1.0, 2.0])[None, :, None].expand(1, 3, 20000)
    shares = assign.choice(likeness).sum(2)[0] / 20000
    assert torch.allclose(shares, torch.tensor([0.0, 1.0, 2.0]).softmax(0), atol=0.02)
    assert assign.eval().choice(likeness).sum(2)[0].tolist() == [0.0, 0.0, 20000.0]


def test_the_released_size_gives_eight_positions() -> None:
    spec = Grouping()
    assert spec.cells((1,)) == (8,)
    with torch.device("meta"):
        module = spec.build(in_dim=1024, out_dim=4096)
    assert spec.num_params(1024, 4096) == sum(p.numel() for p in module.parameters())


def test_impossible_stages_are_refused() -> None:
    with pytest.raises(
        SpecError, match=r"tokens \(64, 8\), groups \(64,\), depths \(6, 3, 3\): name tokens and groups"
    ):
        Grouping(groups=(64,))
    with pytest.raises(SpecError, match="width 512 does not divide into 7 heads"):
        Grouping(heads=7)
