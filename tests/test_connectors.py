"""Every connector keeps its promises; the originals' numbers where they were recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import examples
import pytest
import torch
from safetensors import safe_open

from omniform import index
from omniform.batch import Features
from omniform.connectors.conv_glu import ConvGlu
from omniform.connectors.downsample_mlp import DownsampleMlp
from omniform.connectors.ldp_v2 import FusedLdpV2, LdpV2
from omniform.connectors.linear import Linear
from omniform.connectors.mlp import Mlp
from omniform.connectors.mof_mlp import MofMlp
from omniform.connectors.normed_mlp import NormedMlp
from omniform.connectors.patch_merger import PatchMerger
from omniform.connectors.patch_mining import PatchMining
from omniform.connectors.pooled_mlp import PooledMlp
from omniform.connectors.query_transformer import QueryTransformer
from omniform.connectors.token_merger import TokenMerger
from omniform.geometry import Grid, SpecError, flat_rows
from omniform.parts import Connector

GOLDENS = Path(__file__).parent / "goldens"
every_example = pytest.mark.parametrize("connector", examples.CONNECTORS, ids=str)
IN, OUT = 12, 20


def widths(connector: Connector) -> dict:
    return {
        "in_dim": IN,
        "out_dim": OUT,
        **({"others": (IN + 2,) * (connector.needs - 1)} if connector.needs > 1 else {}),
    }


def fold(connector: Connector) -> int:
    """What the sides of a map must divide by."""
    return connector.fold if isinstance(connector, PatchMerger | ConvGlu) else 1


def inputs(connector: Connector, grid: Grid, views: int = 2, dtype: torch.dtype = torch.float32) -> list[Features]:
    finer = 2 if isinstance(connector, PatchMining) else 1
    whole = fold(connector)
    grid = tuple(-(-side // whole) * whole for side in grid)
    grids = [grid, *[tuple(finer * side for side in grid)] * (connector.needs - 1)]
    dims = IN, *widths(connector).get("others", ())
    if isinstance(connector, TokenMerger):
        kept = torch.rand(views, flat_rows(grid)) < 0.4
        return [Features(torch.randn(views, flat_rows(grid), IN, dtype=dtype), grid, kept)]
    return [Features(torch.randn(views, flat_rows(g), w, dtype=dtype), g) for g, w in zip(grids, dims, strict=True)]


@pytest.mark.parametrize("name", index.declarations("connectors"))
def test_every_connector_has_an_example(name: str) -> None:
    assert name in {type(connector).__name__ for connector in examples.CONNECTORS}


@every_example
@pytest.mark.parametrize("grid", [(6, 6), (5, 5), (3, 7), (24, 24)])
def test_cells_are_as_declared(connector: Connector, grid: Grid) -> None:
    features = inputs(connector, grid)
    out = connector.build(**widths(connector))(*features)
    assert out.grid == connector.cells(*(f.grid for f in features))
    assert out.values.shape == (2, flat_rows(out.grid), OUT)
    assert out.values.isfinite().all()


@every_example
def test_parameters_are_as_declared_at_full_size(connector: Connector) -> None:
    full = {"in_dim": 1152, "out_dim": 3584, **({"others": (1024,)} if connector.needs > 1 else {})}
    with torch.device("meta"):
        module = connector.build(**full)
    assert sum(p.numel() for p in module.parameters()) == connector.num_params(**full)


@every_example
def test_every_parameter_has_a_gradient(connector: Connector) -> None:
    torch.manual_seed(0)
    module = connector.build(**widths(connector))
    out = module(*inputs(connector, (6, 6))).values
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in module.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert moved != name.startswith(tuple(prefix for prefix, _ in connector.idle())), name


@every_example
def test_idle_parameters_are_counted(connector: Connector) -> None:
    named = dict(connector.build(**widths(connector)).named_parameters())
    for prefix, number in connector.idle():
        assert sum(p.numel() for name, p in named.items() if name.startswith(prefix)) == number


@every_example
def test_state_dict_makes_the_same_connector(connector: Connector) -> None:
    first, second = (connector.build(**widths(connector)) for _ in range(2))
    second.load_state_dict(first.state_dict())
    features = inputs(connector, (5, 5))
    assert torch.equal(first(*features).values, second(*features).values)


@every_example
def test_bfloat16_is_float32_rounded(connector: Connector) -> None:
    torch.manual_seed(0)
    module, features = connector.build(**widths(connector)), inputs(connector, (6, 6))
    wanted = module(*features).values
    half = [replace(f, values=f.values.bfloat16()) for f in features]
    got = module.bfloat16()(*half).values
    assert got.dtype == torch.bfloat16
    assert (got - wanted).abs().max() <= 0.05 * wanted.abs().max() + 0.02


@every_example
def test_views_do_not_mix(connector: Connector) -> None:
    module, features = connector.build(**widths(connector)), inputs(connector, (6, 6), views=3)
    together = module(*features).values
    alone = module(*(f.split([1, 1, 1])[1] for f in features)).values
    assert torch.allclose(together[1:2], alone, atol=1e-6)


@every_example
def test_flops_are_counted_and_shrinking_keeps_the_idea(connector: Connector) -> None:
    cost = connector.flops(*[(24, 24)] * connector.needs, **widths(connector))
    assert cost >= 2 * connector.num_params(**widths(connector))
    for size in ("tiny", "nano"):
        small = connector.shrunk(size)
        assert type(small) is type(connector)
        assert flat_rows(small.cells(*[(8 * fold(connector),) * 2] * connector.needs)) >= 1


# --- refusals ----------------------------------------------------------------------------------------------------


def test_grids_that_cannot_be_read_are_refused() -> None:
    for connector, grids, message in [
        (PooledMlp(), [(8, 8)], r"pools a map to 12x12, but the encoder gives \(8, 8\)"),
        (PooledMlp(positions=4), [(15,)], r"gives \(15,\)"),
        (DownsampleMlp(), [(728,)], r"folds a map of rows and columns, but the encoder gives \(728,\) cells"),
        (MofMlp(), [(4, 4), (4, 5)], r"equal maps, but the encoders give \(4, 4\) and \(4, 5\)"),
    ]:
        with pytest.raises(SpecError, match=message):
            connector.cells(*grids)


def test_impossible_connectors_are_refused() -> None:
    with pytest.raises(SpecError, match="positions 140 form no square; give 121 or 144"):
        PooledMlp(positions=140)
    with pytest.raises(SpecError, match="fold 1: give at least 2"):
        DownsampleMlp(fold=1)


# --- numbers of the originals ------------------------------------------------------------------------------------


def golden(
    name: str, output: str = "out.connector"
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Parameters, all that is held, and one output."""
    with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    params = {key.removeprefix("param."): held[key] for key in held if key.startswith("param.")}
    return params, held, held[output]


def compare(
    connector: Connector, name: str, keys: dict[str, str], sources: list[str], grid: Grid, widths: dict
) -> None:
    """Load a golden's connector by prefix rules alone, and compare its output."""
    params, held, wanted = golden(name)
    module = connector.build(**widths)
    rules = [(theirs, ours) for theirs, ours in keys.items()]
    state = {
        ours + k.removeprefix(theirs): v for theirs, ours in rules for k, v in params.items() if k.startswith(theirs)
    }
    module.load_state_dict(state)
    got = module(*(Features(held[source].flatten(0, -3), grid) for source in sources)).values
    assert torch.allclose(got.view(wanted.shape), wanted, rtol=1e-4, atol=1e-5), (
        (got.view(wanted.shape) - wanted).abs().max()
    )


@pytest.mark.parametrize("tokens", [25, 36])
@pytest.mark.parametrize(
    ("kind", "connector"),
    [
        ("mlp_downsample", DownsampleMlp()),
        ("mlp_downsample_2x2_fix", DownsampleMlp()),
        ("mlp_downsample_3x3_fix", DownsampleMlp(fold=3, hidden=(3,))),
    ],
)
def test_downsampling_equals_the_original(kind: str, connector: DownsampleMlp, tokens: int) -> None:
    side, sizes = round(tokens**0.5), {"in_dim": 8, "out_dim": 16}
    compare(connector, f"vila__{kind}_{tokens}tok", {"layers.": "layers."}, ["in.features"], (side, side), sizes)


@pytest.mark.parametrize(("name", "positions", "depth", "side"), [("even", 16, 2, 8), ("3layers", 4, 3, 6)])
def test_pooling_equals_the_original(name: str, positions: int, depth: int, side: int) -> None:
    connector, sizes = PooledMlp(positions=positions, depth=depth), {"in_dim": 24, "out_dim": 40}
    compare(connector, f"deco__pool_{name}", {"mlp_projector.": "layers."}, ["in.visual_feat"], (side, side), sizes)


def test_interleaving_equals_the_original() -> None:
    keys = {"connector._connector.clip.": "branches.0.layers.", "connector._connector.dinov2.": "branches.1.layers."}
    sizes = {"in_dim": 20, "out_dim": 24, "others": (20,)}
    compare(MofMlp(), "tinyllava__mof_mlp", keys, ["in.clip_features", "in.dinov2_features"], (3, 3), sizes)


def test_projecting_down_equals_the_original() -> None:
    keys = {"model.mm_projector.mlp.mlp.": "layers.", "model.mm_projector.peg.peg.0.": "peg."}
    compare(LdpV2(), "mobilevlm-v2-connector", keys, ["in.features"], (10, 10), {"in_dim": 24, "out_dim": 32})
    assert [LdpV2().num_params(1024, dim) for dim in (2048, 2560, 4096)] == [6316032, 9205760, 21020672]
    assert FusedLdpV2(side=14).num_params(1024, 2560, (1152,)) == 41259008


@pytest.mark.parametrize(
    ("name", "connector", "keys"),
    [
        ("llava__linear_start_end", Linear(), {"model.mm_projector.": "layer."}),
        ("llava-1.5__batch_padded", Mlp(), {"model.mm_projector.": "layers."}),
        ("vila__vila15_release_batch", DownsampleMlp(by_column=True), {"mm_projector/layers.": "layers."}),
    ],
)
def test_connectors_of_whole_models_equal_the_original(name: str, connector: Connector, keys: dict[str, str]) -> None:
    _, held, wanted = golden(name)
    side = round(held["out.encoder_features"].shape[1] ** 0.5)
    sizes = {"in_dim": held["out.encoder_features"].shape[2], "out_dim": wanted.shape[2]}
    compare(connector, name, keys, ["out.encoder_features"], (side, side), sizes)


@pytest.mark.parametrize(
    ("name", "ends", "inputs", "queries", "out_dim", "wanted"),
    [("legacy_audio", ("fc", "model"), 8, 1, 10, "embeddings"), ("current", ("in_fc", "out_fc"), 7, 7, 12, "out")],
)
def test_query_transformer_equals_the_original(
    name: str, ends: tuple[str, str], inputs: int, queries: int, out_dim: int, wanted: str
) -> None:
    params, held, _ = golden(f"next-gpt__outproj_{name}", f"out.{wanted}")
    rules = {f"{ends[0]}.": "into.", f"{ends[1]}.": "out.", "query_embs": "queries", "tfm.": "transformer."}
    connector = QueryTransformer(positions=queries, width=16, layers=2, heads=2, mlp_dim=32)
    module = connector.build(in_dim=20, out_dim=out_dim).eval()
    state = {ours + k.removeprefix(theirs): v for theirs, ours in rules.items() for k, v in params.items()
             if k.startswith(theirs)}  # fmt: skip
    module.load_state_dict(state)
    rows = held["in.hidden_states"] + held["in.signal_token_embeddings"]
    with torch.no_grad():
        got = module(Features(rows, (inputs,))).values
    assert (got - held[f"out.{wanted}"]).abs().max() <= 1e-5 * held[f"out.{wanted}"].abs().max()


def test_uneven_windows_overlap() -> None:
    values = torch.arange(7.0).repeat(7).view(1, 49, 1)
    module = PooledMlp(positions=16, depth=1).build(in_dim=1, out_dim=1)
    torch.nn.init.ones_(module.layers[0].weight)
    torch.nn.init.zeros_(module.layers[0].bias)
    row = module(Features(values, (7, 7))).values.view(4, 4)[0]
    assert row.tolist() == [0.5, 2.0, 4.0, 5.5]  # columns 0-1, 1-3, 3-5, 5-6


def test_a_norm_follows_every_linear_layer() -> None:
    module = NormedMlp().build(in_dim=IN, out_dim=OUT)
    assert [type(m).__name__ for m in module.layers] == ["Linear", "LayerNorm", "GELU", "Linear", "LayerNorm"]
    rows = module(Features(torch.randn(1, 4, IN), (2, 2))).values
    assert torch.allclose(rows.mean(-1), torch.zeros(1, 4), atol=1e-5)


def test_published_parameter_counts() -> None:
    assert Mlp().num_params(1024, 4096) == 20_979_712
    assert NormedMlp().num_params(1280, 4096) == 22_044_672
    assert DownsampleMlp().num_params(1152, 4096) == 35_668_992
    assert PooledMlp().num_params(1024, 4096) == 20_979_712
    assert Mlp().num_params(3 * 1152, 4096) == 30_941_184
    assert QueryTransformer().num_params(4096, 768) == 31_958_784
    assert DownsampleMlp(fold=3, hidden=(3, 1, 1 / 3)).widths(3456, 3584) == (31104, 10368, 3456, 1152, 3584)


def test_a_map_that_does_not_fold_evenly_is_refused() -> None:
    with pytest.raises(SpecError, match=r"ConvGlu folds 2 x 2 cells of a map, but the encoder gives \(3, 4\)"):
        ConvGlu().cells((3, 4))
    assert (ConvGlu().cells((96, 96)), ConvGlu().title) == ((48, 48), "Conv + SwiGLU")
