"""Stages in which rows of some tokens learn: in the embedding, and in an output head that is a table of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omniform import cost, index
from omniform.batch import Batch, Tree
from omniform.geometry import SpecError
from omniform.spec import Learn, System
from omniform.training.freeze import parameters_that_learn, start_learning

TOKENS = ("<im_start>", "<im_end>")
ROWS = {"<im_start>": 5, "<im_end>": 9}
EMBEDDING, HEAD = "backbone.lm.model.embed_tokens.weight", "backbone.lm.lm_head.weight"


def system(head: bool, tied: bool = False) -> System:
    base = index.system("llava").shrunk("tiny")
    stage = replace(base.stages[0], learn=(Learn(part="backbone", tokens=TOKENS, head=head, lr=1e-3),))
    return base.but({"backbone": base.backbone.but(tied=tied), "stages": (stage,)})


@pytest.mark.parametrize(
    ("head", "tied", "names"),
    [(False, False, {EMBEDDING}), (True, False, {EMBEDDING, HEAD}), (True, True, {EMBEDDING})],
)
def test_only_their_rows_learn(head: bool, tied: bool, names: set[str]) -> None:
    torch.manual_seed(0)
    made = system(head, tied)
    model, stage = made.build(), made.stages[0]
    found = parameters_that_learn(model, stage, stage.learn[0])
    assert set(found) == names
    assert cost.learning(made, stage) == {"backbone": sum(p.numel() for p in found.values())}
    start_learning(model, stage, ROWS.__getitem__)
    ids = torch.tensor([1, 5, 9, 7])
    batch = Batch(ids, torch.arange(4), Tree.of([4]), {}, torch.arange(3), ids[1:], torch.ones(3))
    model(batch)["text"].total.backward()
    for name, parameter in found.items():
        assert parameter.grad is not None
        moved = parameter.grad.abs().sum(1).nonzero().flatten().tolist()
        assert moved == [5, 9], name
    assert all(p.grad is None for n, p in model.named_parameters() if n not in names)


def test_a_head_without_tokens_is_refused() -> None:
    base = index.system("llava").shrunk("tiny")
    stage = replace(base.stages[0], learn=(Learn(part="backbone", head=True, lr=1e-3),))
    with pytest.raises(SpecError, match="rows of the output head learn for the tokens that are named, but backbone na"):
        base.but(stages=(stage,))
