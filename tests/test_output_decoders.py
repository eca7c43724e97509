"""What every output decoder must do: a loss that sums over learned items, and gradients into what it reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from examples import CLIP
from torch import Tensor

from omniform import index
from omniform.backbones.llama import LLAMA_7B
from omniform.batch import Batch, Loss, SignalBatch, Told, Tree
from omniform.codecs.units import MHUBERT_KM1000
from omniform.codecs.vqgan import VqGan
from omniform.connectors.linear import Linear
from omniform.connectors.query_transformer import QueryTransformer
from omniform.decoders.codes import Codes
from omniform.decoders.ctc_units import CtcUnits
from omniform.decoders.regressed import Regressed
from omniform.decoders.retrieved import Retrieved
from omniform.decoders.text import Text
from omniform.diffusion.codec_unet import CodecUnet
from omniform.diffusion.stable_diffusion import STABLE_DIFFUSION_1_5
from omniform.fusion.splice import Splice
from omniform.parts import OutputDecoder
from omniform.spec import Continuous
from omniform.views.fixed import Fixed
from omniform.views.whole import Whole

TOKENS: tuple[OutputDecoder, ...] = (Text(), Codes())
"""Outputs that learn tokens of the sequence."""
REGRESSED = Regressed(
    tokens=("<a>", "<b>"), head=QueryTransformer(), diffusion=STABLE_DIFFUSION_1_5, embedded=True
).shrunk("tiny")
FEATURES: tuple[Regressed, ...] = (
    REGRESSED,
    REGRESSED.but(losses={"squares": 0.5, "cosine": 2.0}, taken="before", embedded=False),
    REGRESSED.but(losses={"noise": 1.0}, views=Fixed(fit="crop")),
    Regressed(
        tokens=("<a>", "<b>"),
        head=QueryTransformer(positions=4),
        losses={"noise": 1.0},
        dropped=0.25,
        diffusion=CodecUnet(name="SD", codec=VqGan(), draws=3),
        views=Fixed(fit="squash"),
    ).shrunk("tiny"),
    Retrieved(tokens=("<a>", "<b>"), head=REGRESSED.head, diffusion=REGRESSED.diffusion, shared=5),
)
"""Outputs that give conditions."""
BACKBONE = index.system("llava-1.5").shrunk("tiny").backbone


ALONG = CtcUnits(codec=MHUBERT_KM1000, views=Whole(), trunk=LLAMA_7B.but(layers=2)).shrunk("tiny").but(copies=3)
EXAMPLES = (*TOKENS, ALONG, *FEATURES)


def case(weights: list[float]) -> tuple[Any, Tensor, Batch]:
    """A backbone, hidden states of seven positions, and a batch that learns at three of them."""
    torch.manual_seed(0)
    batch = Batch(
        ids=torch.arange(7), positions=torch.arange(7), tree=Tree.of([7]), predict_at=torch.tensor([1, 4, 4]),
        targets=torch.tensor([5, 9, 11]), weights=torch.tensor(weights),
        told={"audio": (Told(torch.tensor([1]), torch.tensor([5, 2])), Told(torch.tensor([4]), torch.tensor([1, 0])))},
    )  # fmt: skip
    return BACKBONE.build(), torch.randn(7, BACKBONE.dim, requires_grad=True), batch


INPUTS = {"image": Continuous(encoder=CLIP, connector=Linear(), views=Fixed(fit="crop"), fusion=Splice())}


def widths(spec: OutputDecoder) -> dict[str, int]:
    return spec.widths(BACKBONE.dim, INPUTS)


def built(spec: OutputDecoder) -> Any:
    """A decoder, with the diffusion model that it is for, and the encoder that its losses look through."""
    decoder = spec.build(**widths(spec))
    if spec.generator:
        stage = spec.generator.first_stage
        decoder.attach(spec.generator.build(**({"codec": stage.build()} if stage else {})).eval())
    if spec.looks:
        decoder.look(CLIP.build())
    return decoder


def with_signals(batch: Batch, seen: bool = False) -> Batch:
    """The batch with two signals, whose tokens stand where two of its targets are predicted."""
    at = torch.tensor([[1, 2], [4, 5]])
    side = CLIP.image if seen else 16
    views = tuple(torch.full((1, 3, side, side), shade, dtype=torch.uint8) for shade in (3, 200))
    return replace(batch, signals={"image": SignalBatch(at, at[:, 0] - 1, ("a cat", "a dog"), views)})


def test_every_decoder_has_an_example() -> None:
    assert {type(e).__name__ for e in EXAMPLES} == set(index.declarations("decoders"))


@pytest.mark.parametrize("spec", (*TOKENS, ALONG), ids=lambda spec: type(spec).__name__)
def test_contract(spec: OutputDecoder) -> None:
    backbone, hidden, batch = case([1.0, 1.0, 2.0])
    decoder = built(spec)
    assert sum(p.numel() for p in decoder.parameters()) == spec.num_params(BACKBONE.dim)
    assert spec.form in ("text", "continuous", "discrete")
    loss = decoder.loss(backbone, hidden, batch)
    assert isinstance(loss, Loss)
    assert loss.total.shape == loss.weight.shape == ()
    assert torch.isfinite(loss.total) and loss.weight == 4
    assert torch.equal(loss.mean, loss.total / 4)
    loss.total.backward()
    moved = hidden.grad.abs().sum(-1) > 0  # type: ignore[union-attr]
    assert moved.tolist() == [False, True, False, False, True, False, False]


@pytest.mark.parametrize("spec", TOKENS, ids=repr)
def test_losses_add_up(spec: OutputDecoder) -> None:
    backbone, hidden, batch = case([1.0, 1.0, 2.0])
    decoder = built(spec)
    whole = decoder.loss(backbone, hidden, batch)
    parts = [
        decoder.loss(
            backbone, hidden,
            replace(batch, predict_at=batch.predict_at[k], targets=batch.targets[k], weights=batch.weights[k]),
        )
        for k in (slice(0, 1), slice(1, 3))
    ]  # fmt: skip
    assert torch.allclose(sum(p.total for p in parts), whole.total, rtol=1e-6)  # type: ignore[arg-type]
    assert sum(float(p.weight) for p in parts) == float(whole.weight)


@pytest.mark.parametrize("spec", FEATURES, ids=repr)
def test_contract_of_features(spec: Any) -> None:
    backbone, hidden, batch = case([1.0, 1.0, 2.0])
    decoder = built(spec)
    loss = decoder.loss(backbone, hidden, with_signals(batch, bool(spec.looks)))
    assert torch.isfinite(loss.total) and loss.weight == 2 and loss.total > 0
    loss.total.backward()
    moved = hidden.grad.abs().sum(-1) > 0  # type: ignore[union-attr]
    assert moved.nonzero().flatten().tolist() == ([1, 2, 4, 5] if spec.taken == "at" else [0, 1, 3, 4])
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())
    assert sum(p.numel() for p in decoder.parameters()) == spec.num_params(**widths(spec))
    assert spec.title == "SD" and spec.said == 2 and len(spec.signal) == 2


@pytest.mark.parametrize("spec", [e for e in FEATURES if not e.aims and not e.looks], ids=repr)
def test_media_alone_and_together(spec: Any) -> None:
    """Losses add up, where they are neither random nor between media."""
    backbone, hidden, batch = case([1.0, 1.0, 2.0])
    decoder, batch = built(spec), with_signals(batch)
    both = batch.signals["image"]

    def total(k: slice) -> float:
        one = SignalBatch(both.at[k], both.before[k], both.captions[k], both.views[k])
        return decoder.loss(backbone, hidden, replace(batch, signals={"image": one})).total.item()

    assert total(slice(0, 2)) == pytest.approx(total(slice(0, 1)) + total(slice(1, 2)), rel=1e-5)


def test_text_is_weighted_cross_entropy() -> None:
    backbone, hidden, batch = case([0.5, 1.0, 2.0])
    loss = Text().build(dim=BACKBONE.dim).loss(backbone, hidden, batch)
    logits = backbone.logits(hidden)[batch.predict_at]
    expected = (F.cross_entropy(logits, batch.targets, reduction="none") * batch.weights).sum()
    assert torch.allclose(loss.total, expected, rtol=1e-6)
    assert loss.weight == 3.5


def test_a_batch_that_teaches_nothing_costs_nothing() -> None:
    backbone, hidden, batch = case([1.0, 1.0, 1.0])
    nothing = torch.empty(0, dtype=torch.long)
    loss = (
        Text()
        .build(dim=BACKBONE.dim)
        .loss(backbone, hidden, replace(batch, predict_at=nothing, targets=nothing, weights=torch.empty(0)))
    )
    assert (loss.total.item(), loss.weight.item()) == (0.0, 0.0)
