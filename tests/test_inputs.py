"""A continuous input: media of any size together give what each gives alone, whatever its encoder and views."""

from __future__ import annotations

import pytest
import torch
from examples import CLIP, NEXT_GRIDS, SIGLIP

from omniform import index
from omniform.batch import MediaBatch
from omniform.connectors.downsample_mlp import DownsampleMlp
from omniform.connectors.mlp import Mlp
from omniform.connectors.mof_mlp import MofMlp
from omniform.encoders.dinov2 import DINOV2_L_518
from omniform.encoders.s2 import S2
from omniform.encoders.several import Several
from omniform.geometry import MediaSize, SpecError
from omniform.model import Lmm
from omniform.parts import Connector, Encoder, Views
from omniform.spec import Shared, System
from omniform.views.any_res import AnyRes
from omniform.views.dynamic_s2 import DynamicS2
from omniform.views.fixed import Fixed
from omniform.views.frames import Frames
from omniform.views.pooled_frames import PooledFrames
from omniform.views.tiles import Tiles

BOTH = Several(members=(CLIP, DINOV2_L_518.shrunk("tiny")))
SIZES = ((640, 480), (48, 20), (20, 90), (24, 24))
COMPOSITIONS: list[tuple[Encoder, Connector, Views]] = [
    (CLIP, Mlp(), AnyRes(grids=NEXT_GRIDS)),
    (SIGLIP, DownsampleMlp(), DynamicS2(after="\n")),
    (S2(inner=SIGLIP), Mlp(), Fixed(fit="pad")),
    (BOTH, MofMlp(), Tiles(max_tiles=4)),
    (BOTH, MofMlp(), Fixed(fit="squash", copies=2)),
]


def system(encoder: Encoder, connector: Connector, views: Views) -> System:
    base = index.system("llava-1.5").shrunk("tiny").but(stages=())
    image = base.inputs["image"]
    whole = type(image)(encoder=encoder, connector=connector, views=views, fusion=image.fusion)
    return base.but({"inputs.image": whole})


def batch(made: System, sizes: tuple[tuple[int, int], ...], seed: int = 0) -> list[MediaBatch]:
    """One batch for each medium."""
    torch.manual_seed(seed)
    plans = [made.plan("image", MediaSize(width=w, height=h)) for w, h in sizes]
    pixels = [torch.randint(0, 256, (len(p.views), 3, *p.size), dtype=torch.uint8) for p in plans]
    return [MediaBatch((x,), (p,), torch.arange(p.positions)) for x, p in zip(pixels, plans, strict=True)]


@pytest.mark.parametrize(("encoder", "connector", "views"), COMPOSITIONS)
def test_media_together_equal_media_alone(encoder: Encoder, connector: Connector, views: Views) -> None:
    made = system(encoder, connector, views)
    stream = Lmm(made).inputs["image"]
    single = batch(made, SIZES)
    alone = torch.cat([stream(one) for one in single])
    pixels, plans = (sum((getattr(one, name) for one in single), ()) for name in ("views", "plans"))
    together = stream(MediaBatch(pixels, plans, torch.arange(len(alone))))
    assert together.shape == (sum(plan.positions for plan in plans), made.backbone.dim)
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(("encoder", "connector", "views"), COMPOSITIONS)
def test_encoder_and_connector_learn(encoder: Encoder, connector: Connector, views: Views) -> None:
    made = system(encoder, connector, views)
    model = Lmm(made)
    rows = model.inputs["image"](batch(made, ((30, 20),))[0])
    (rows * torch.randn_like(rows)).sum().backward()
    for part in ("image.encoder", "image.connector"):
        for name, parameter in model.parameters_of(part):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_connector_that_reads_several_needs_several() -> None:
    with pytest.raises(SpecError, match="MofMlp reads the features of 2 encoders, but ClipVit gives 1"):
        system(CLIP, MofMlp(), Fixed(fit="squash"))
    with pytest.raises(SpecError, match="Mlp reads the features of 1 encoders, but Several gives 2"):
        system(BOTH, Mlp(), Fixed(fit="squash"))


def test_shared_views_must_join_as_many_scales() -> None:
    made = system(SIGLIP, DownsampleMlp(), DynamicS2())
    for views in (Frames(most=4), PooledFrames(frames=4, pools=((2, 1, 1),))):
        with pytest.raises(SpecError, match=r"joins? 1 scales on channels, but the connector of image reads 3"):
            made.but({"inputs": {**made.inputs, "video": Shared(input="image", views=views)}})
