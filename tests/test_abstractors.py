"""The two abstractors beyond their contract: what is sampled where, positions for other maps, releases, sequences."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image

from omniform import index
from omniform.batch import Features
from omniform.connectors.c_abstractor import CAbstractor
from omniform.connectors.c_abstractor_module import Block
from omniform.connectors.d_abstractor import DAbstractor
from omniform.connectors.d_abstractor_module import sample
from omniform.connectors.map_positions_module import positions_for
from omniform.data.document import Document, Media, Text
from omniform.data.processor import Processor
from omniform.geometry import SpecError
from omniform.prompt import Join, Prompt, Turn
from omniform.training.stages import resolve_stage

RELEASE = {
    "vision_config": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "patch_size": 14, "image_size": 336, "hidden_act": "quick_gelu",
    },
    "text_config": {
        "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 40,
        "intermediate_size": 13824, "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    },
}  # fmt: skip


def test_samples_are_read_bilinearly_and_zero_outside() -> None:
    values = torch.arange(12.0).view(1, 3, 4, 1, 1)  # rows, columns, one head, one channel
    at = torch.tensor([[[2.5 / 4, 1.5 / 3], [2.0 / 4, 1.0 / 3], [-1.0, 0.5], [0.0, 0.5 / 3]]]).view(1, 4, 1, 1, 2)
    read = sample(values, at, torch.ones(1, 4, 1, 1))
    # the centre of row 1, column 2; the corner that four cells share; outside; half a cell over the left edge
    assert torch.allclose(read.flatten(), torch.tensor([6.0, 3.5, 0.0, 0.0]), atol=1e-6)


def test_samples_are_weighted_head_by_head() -> None:
    torch.manual_seed(0)
    values, weights = torch.randn(2, 4, 4, 3, 5), torch.rand(2, 6, 3, 2)
    cells = torch.randint(0, 4, (2, 6, 3, 2, 2))
    read = sample(values, (cells + 0.5) / 4, weights).unflatten(2, (3, 5))
    for view, query, head in torch.cartesian_prod(torch.arange(2), torch.arange(6), torch.arange(3)):
        x, y = cells[view, query, head].T
        wanted = (values[view, y, x, head] * weights[view, query, head, :, None]).sum(0)
        assert torch.allclose(read[view, query, head], wanted, atol=1e-5)


def test_reference_points_start_evenly_over_the_map() -> None:
    points = DAbstractor(positions=4, width=8, layers=1, heads=2, trained=(16, 16)).build(in_dim=8, out_dim=8)
    first, last = 0.5 / 16, 15.5 / 16
    assert points.reference_points.tolist() == [[[first, first], [last, first], [first, last], [last, last]]]
    assert [type(m).__name__ for m in (points.input_proj[0], points.output_proj)] == ["Identity", "Identity"]


def test_positions_of_other_maps_are_interpolated() -> None:
    table = torch.randn(1, 16, 3)
    assert positions_for((4, 4), table, (4, 4)) is table
    ramp = torch.arange(16.0).view(1, 16, 1)
    wide = positions_for((8, 8), ramp, (4, 4)).view(8, 8)
    assert torch.allclose(wide + wide.flip(0, 1), torch.full((8, 8), 15.0), atol=1e-5)
    assert (wide.diff(dim=0) > 0).all() and (wide.diff(dim=1) > 0).all()
    tall = positions_for((8, 4), ramp, (4, 4)).view(8, 4)
    assert torch.allclose(tall.diff(dim=1), torch.ones(8, 3), atol=1e-5)  # columns stay as they are


def test_blocks_mix_channels_per_cell_and_cells_per_channel() -> None:
    block = Block(8, 8)
    assert (block.conv2.conv.groups, block.conv1.conv.groups, block.conv3.conv.groups) == (8, 1, 1)
    assert block.se.fc1.out_channels == 2 and Block(24, 20).se.fc1.out_channels == 6
    assert isinstance(block.downsample, torch.nn.Identity) and not isinstance(Block(8, 6).downsample, torch.nn.Identity)


def test_published_parameter_counts() -> None:
    assert CAbstractor().num_params(1024, 4096) == 37_070_336
    assert DAbstractor().num_params(1024, 4096) == 55_616_352
    assert CAbstractor(positions=256, trained=(24, 24)).num_params(1024, 5120) == 47_885_824


@pytest.mark.parametrize("kind", [CAbstractor, DAbstractor])
def test_what_cannot_work_is_refused(kind: type) -> None:
    with pytest.raises(SpecError, match="positions 140 form no square; give 121 or 144"):
        kind(positions=140)
    with pytest.raises(
        SpecError, match=re.escape(f"{kind.__name__} makes 12x12 cells of a map, but the encoder gives")
    ):
        kind().cells((257,))


def test_dropout_acts_in_training_only() -> None:
    module = DAbstractor(positions=4, width=8, layers=1, heads=2, trained=(4, 4)).build(in_dim=6, out_dim=5)
    features = Features(torch.randn(1, 16, 6), (4, 4))
    assert not torch.equal(module(features).values, module(features).values)
    assert torch.equal(module.eval()(features).values, module(features).values)


# --- the releases ------------------------------------------------------------------------------------------------


def test_a_release_sizes_the_system() -> None:
    projector = {"projector_type": "c-abs", "depth": 3, "mlp_depth": 2, "hidden_size": 1024, "num_query_tokens": 576}
    made = index.release("honeybee", {**RELEASE, "projector_config": projector})
    wanted = index.system("honeybee:c-13b-m576")
    assert (made.inputs, made.backbone) == (wanted.inputs, wanted.backbone)
    deformable = {"projector_type": "d-abs", "d_model": 1024, "num_query_tokens": 256, "pooled_v_target": "query"}
    made = index.release("honeybee", {**RELEASE, "projector_config": deformable})
    assert made.inputs == index.system("honeybee:d-13b-m256").inputs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projector_type": "resampler"}, "projector_type 'resampler'"),
        ({"num_query_tokens": 145}, "with 145 queries"),
        ({"num_eos_tokens": 2}, "num_eos_tokens 2"),
        ({"feature_layer_index": [-1, -2]}, "joins several layers"),
    ],
)
def test_ablations_are_refused(changes: dict, message: str) -> None:
    projector = {"projector_type": "c-abs", "num_query_tokens": 144, **changes}
    with pytest.raises(SpecError, match=re.escape(message)):
        index.release("honeybee", {**RELEASE, "projector_config": projector})


def test_a_length_published_in_steps_holds_unless_the_recipe_says_otherwise() -> None:
    system = index.system("honeybee")
    first = system.stages[0]
    assert [resolve_stage(system, s, {"data": "x"}).steps for s in system.stages] == [50_000, 4_000]
    published = resolve_stage(system, first, {"data": "x"})
    assert (published.epochs, published.total_steps(7)) == (None, 50_000)
    shorter = resolve_stage(system, first, {"data": "x", "steps": 10})
    assert (shorter.steps, shorter.epochs) == (10, None)
    passes = resolve_stage(system, first, {"data": "x", "epochs": 2.0})
    assert (passes.steps, passes.epochs, passes.total_steps(7)) == (None, 2.0, 14)
    assert resolve_stage(system, first, published.plain(system)) == published


# --- sequences ---------------------------------------------------------------------------------------------------


class Pieces:
    """Each text it is given is one token."""

    bos_id, eos_id, size = 1, 2, 1000

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        self.seen.append(text)
        return [2 + len(self.seen)], [(0, len(text))]


def test_signs_and_words_are_tokenized_apart() -> None:
    tokenizer = Pieces()
    picture = Media("image", Image.new("RGB", (24, 24)))
    document = Document((Text("What?"), picture, Text("A cat.", "assistant")))
    sample = Processor(index.system("honeybee").shrunk("tiny"), tokenizer).sample(document)  # type: ignore[arg-type]
    system = index.system("honeybee").prompt.system
    assert tokenizer.seen == [system, "\nHuman: ", "What?", "\nAI: ", "A cat.", "</s>"]
    assert sample.ids.tolist() == [1, 3, 4, 5, 4, 0, 0, 0, 0, 6, 7, 8]  # the second "\nHuman: " stands in the cache
    assert sample.learn.tolist() == [False] * 10 + [True, True]


def test_neighbours_in_a_turn_are_joined() -> None:
    prompt = Prompt(user="<{content}>", join=Join(between="|"), header="", answer="{text}", media={"image": "{media}"})
    turn = Turn("user", ("a", "b", ("image", 0), ("image", 1), " c"))
    texts = [p.text if p.media is None else f"[{p.media}]" for p in prompt.render([turn])]
    assert "".join(texts) == "<ab|[0]|[1]| c>"
    assert "|" in prompt.literals()
