"""The survey's table, what systems say of themselves, and how the two are compared."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from omniform import catalogue, index, survey
from omniform.facts import Facts, facts, resolutions
from omniform.index import UnknownName
from omniform.verify import row as row_stamp
from omniform.verify.check import Context, Failed


def test_the_table_is_whole() -> None:
    rows = survey.rows()
    assert len(rows) == 99
    assert len({row.slug for row in rows}) == 99
    assert Counter(row.type for row in rows) == {"A1": 80, "A2": 9, "A3": 2, "B3": 8}
    assert [row.slug for row in rows[:2]] == ["flamingo", "blip-2"]
    assert rows[-1].modality_encoder == "CLIP ViT-L/14 + Whisper-small + BEATs"


def test_a_row_by_its_slug() -> None:
    row = survey.row("llava-1.5")
    assert (row.llm_backbone, row.max_resolution, row.date) == ("Vicuna 1.5", "336", "2023/10")
    assert row.modalities == {"image", "text"}
    assert survey.row("anygpt").modalities == {"image", "audio", "text"}
    with pytest.raises(UnknownName, match=r"no system in the survey named 'lava-1\.5'; did you mean 'llava-1\.5'"):
        survey.row("lava-1.5")


@pytest.mark.parametrize("slug", index.names("systems"))
def test_every_system_equals_its_row(slug: str) -> None:
    if slug in survey.by_slug():
        assert "columns equal" in row_stamp.check(index.system(slug), Context())


def test_derived_facts() -> None:
    found = facts(index.system("llava-1.5"))
    assert found == Facts(
        input_type=("A",), output_type=("1",), output_modality=("Text",), llm_backbone=("Vicuna 1.5",),
        modality_encoder=("CLIP ViT-L/14",), connection=("MLP",), modality_decoder=("-",), max_resolution=("336",),
        date=("2023/10",),
    )  # fmt: skip
    assert found.cell("llm_backbone") == "Vicuna 1.5"


def test_resolution_of_tiles() -> None:
    assert resolutions(index.system("llava-1.5")) == ("336",)
    if "llava-next" in index.names("systems"):
        assert resolutions(index.system("llava-next")) == ("672", "336*4")


CELLS = survey.row("llava-1.5")
MINE = facts(index.system("llava-1.5"))


@pytest.mark.parametrize(
    ("column", "cell", "value", "agree"),
    [
        ("llm_backbone", "Vicuna-1.5", "Vicuna 1.5", True),
        ("llm_backbone", "Vicuna", "Vicuna 1.5", False),
        ("llm_backbone", "Vicuna / Mistral / Hermes-2-Yi", "Mistral", True),
        ("llm_backbone", "LLaMA, MPT", "MPT", True),
        ("llm_backbone", "LLaMA / Phi-2", "Qwen", False),
        ("modality_encoder", "CLIP-ViT-L/14", "CLIP ViT-L/14", True),
        ("modality_encoder", "CLIP ViT-L", "CLIP ViT-L/14", True),
        ("modality_encoder", "SigLIP-L, SAM-B", "SigLIP-L/16 + SAM-B", True),
        ("modality_encoder", "CLIP ViT-L/14 + DINOv2", "CLIP ViT-L/14", False),
        ("modality_encoder", "CLIP ViT-L/14", "CLIP ViT-L/14 + DINOv2", False),
        ("modality_encoder", "-", "-", True),
        ("modality_encoder", "-", "CLIP ViT-L/14", False),
        ("connection", "MLP + Adaptive Pooling", "Adaptive Pooling + MLP", True),
        ("connection", "MLP", "Linear", False),
        ("connection", "", "Q-Former", True),
        ("max_resolution", "336/384", "384", True),
        ("max_resolution", "336*16", "336", False),
        ("date", "2024/01", "2024/02", False),
    ],
)
def test_cells_and_values(column: str, cell: str, value: str, agree: bool) -> None:
    assert row_stamp.agrees(replace(CELLS, **{column: cell}), replace(MINE, **{column: (value,)}), column) is agree


def test_every_variant_must_be_among_the_alternatives() -> None:
    row = replace(CELLS, llm_backbone="Vicuna / Mistral")
    assert row_stamp.agrees(row, replace(MINE, llm_backbone=("Vicuna", "Mistral")), "llm_backbone")
    assert not row_stamp.agrees(row, replace(MINE, llm_backbone=("Vicuna", "Phi-2")), "llm_backbone")


def test_a_difference_must_be_explained_and_only_a_difference() -> None:
    system = index.system("llava-1.5")
    other = system.but({"date": "2023/11"})
    with pytest.raises(Failed, match=r"date is '2023/11' here, '2023/10' in the survey"):
        row_stamp.check(other, Context())
    noted = other.but(survey_notes={"date": "of the second version"})
    assert row_stamp.check(noted, Context()) == "8 of 9 columns equal; noted: date (of the second version)"
    with pytest.raises(Failed, match=r"explain date, which agree"):
        row_stamp.check(system.but(survey_notes={"date": "x"}), Context())
    with pytest.raises(UnknownName, match="did you mean 'date'"):
        row_stamp.check(system.but(survey_notes={"dates": "x"}), Context())


def test_files_of_systems_are_called_like_their_slugs() -> None:
    assert sorted(map(index.stem, index.names("systems"))) == sorted(index.files("systems"))
    assert index.is_here("llava-1.5") and not index.is_here("llava-1.6") and not index.is_here("_vila")
    assert index.system("llava-1.5").slug == "llava-1.5"
    with pytest.raises(UnknownName, match=r"did you mean 'llava-1\.5'"):
        index.system("llava-1_5")  # the file's name is not the slug


def test_the_catalogue_holds_the_survey_in_order_and_more() -> None:
    entries = list(catalogue.entries())
    assert [e.slug for e in entries[:99]] == [row.slug for row in survey.rows()]
    assert {e.slug for e in entries if e.here} == set(index.names("systems"))
    beyond = [e.slug for e in entries[99:]]
    assert beyond == [slug for slug in index.names("systems") if slug not in survey.by_slug()]


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({}, 99),
        ({"input_type": "b"}, 8),
        ({"output_type": "3"}, 10),
        ({"input_type": "A", "output_type": "2"}, 9),
        ({"connector": "q-former"}, 5),
        ({"backbone": "vicuna 1.5"}, 8),
        ({"modality": "audio"}, 17),
    ],
)
def test_filters(wanted: dict[str, str], count: int) -> None:
    chosen = catalogue.Filter(**wanted)
    rows = {row.slug for row in survey.rows()}
    assert sum(chosen.passes(e) for e in catalogue.entries() if e.slug in rows) == count
