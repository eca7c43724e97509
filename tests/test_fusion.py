"""What every fusion must do: rows meet the backbone at their positions, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from omniform import index
from omniform.fusion.splice import Splice
from omniform.parts import Fusion

EXAMPLES: tuple[Fusion, ...] = (Splice(),)
LENGTH, AT = 9, torch.tensor([2, 3, 6])
BACKBONE = index.system("llava-1.5").shrunk("tiny").backbone


def test_every_fusion_has_an_example() -> None:
    assert {type(e).__name__ for e in EXAMPLES} == set(index.declarations("fusion"))


@pytest.mark.parametrize("spec", EXAMPLES, ids=repr)
def test_contract(spec: Fusion) -> None:
    torch.manual_seed(0)
    backbone = BACKBONE.build()
    before = sum(p.numel() for p in backbone.parameters())
    fusion = spec.build(backbone=backbone)
    own = sum(p.numel() for p in fusion.parameters())
    assert own == spec.num_params(BACKBONE.dim)
    assert sum(p.numel() for p in backbone.parameters()) == before
    embeds, rows = (torch.randn(n, BACKBONE.dim, requires_grad=True) for n in (LENGTH, len(AT)))
    out = fusion(embeds, rows, AT)
    elsewhere = torch.ones(LENGTH, dtype=torch.bool)
    elsewhere[AT] = False
    assert out.shape == embeds.shape
    assert torch.equal(out[elsewhere], embeds[elsewhere])
    out.square().sum().backward()
    assert rows.grad is not None and bool((rows.grad != 0).all())


@pytest.mark.parametrize("spec", EXAMPLES, ids=repr)
def test_rows_keep_the_precision_of_the_sequence(spec: Fusion) -> None:
    fusion = spec.build(backbone=BACKBONE.build())
    out = fusion(torch.zeros(LENGTH, 32, dtype=torch.bfloat16), torch.ones(3, 32), AT)
    assert out.dtype == torch.bfloat16 and out[AT].eq(1).all()


@pytest.mark.parametrize("rows", [2, 4])
def test_counts_that_differ_are_told(rows: int) -> None:
    fusion = Splice().build(backbone=BACKBONE.build())
    with pytest.raises(ValueError, match=f"placeholder positions: 3, feature rows: {rows}"):
        fusion(torch.zeros(LENGTH, 32), torch.ones(rows, 32), AT)


def test_splice_puts_rows_in_order() -> None:
    fusion = Splice().build(backbone=BACKBONE.build())
    out = fusion(torch.zeros(LENGTH, 2), torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), AT)
    assert out[:, 0].tolist() == [0, 0, 1, 2, 0, 0, 3, 0, 0]
