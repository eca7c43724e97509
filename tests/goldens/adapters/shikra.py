"""Shikra: whole models, coordinates in words, pixels, prompts and label masks.

Rows without a picture pass over none. Of several pictures in one row only the last is really inserted, because each
insertion starts again from the plain embeddings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omniform.data import coordinates
from omniform.geometry import MediaSize
from omniform.systems.shikra import PROMPT

from ..golden import Golden
from . import _family, _llava, _texts
from ._labels import IMAGE

UNMARKED = replace(PROMPT, media={"image": "{media}"}, join=replace(PROMPT.join, lead="\n"))
PROMPTS = dict.fromkeys(("v1", "v1.1", "vicuna_v1.1", "vicuna_v1_1", "vicuna_v1"), UNMARKED)


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        habits = _llava.Habits(
            inline=golden.config["im_patch"], last_only=True, text_rows_take_one=False,
            separate={"clip.": "inputs.image.encoder."},
        )  # fmt: skip
        return _family.whole(golden, habits)
    if "toy_vocab" in golden.data:
        return labels(golden)
    if "cases" not in golden.data:
        return _texts.run(golden.data, "shikra", PROMPTS)
    if "boxes_xyxy_px" in golden.data["cases"][0]:
        return places(golden.data["cases"])
    return _family.pixels(golden, {"pixel_values": 0})


def labels(golden: Golden) -> dict[str, Any]:
    """Ids and labels; a picture is as many patch ids as the golden writes, between its two signs."""
    patch = _texts.Toy(golden.data["toy_vocab"], golden.notes).id_of("<im_patch>")
    marked = patch >= 0
    found = _texts.run(golden.data, "shikra", dict.fromkeys(PROMPTS, PROMPT) if marked else PROMPTS)
    for path in [p for p in found if marked and p.endswith("input_ids")]:
        wanted = golden.at(path)
        count = wanted.count(patch) // max(1, found[path].count(IMAGE))
        ids, learned = found[path], found[path.removesuffix("input_ids") + "labels"]
        found[path] = [i for number in ids for i in ([patch] * count if number == IMAGE else [number])]
        found[path.removesuffix("input_ids") + "labels"] = [
            label
            for number, label in zip(ids, learned, strict=True)
            for label in [label] * (count if number == IMAGE else 1)
        ]
    return found


def places(cases: list[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for i, case in enumerate(cases):
        width, height = case["image_wh"]
        told = case_places(case, MediaSize(width=width, height=height))
        found |= {f"cases/{i}/{key}": value for key, value in told.items() if key in case}
    return found


def case_places(case: dict[str, Any], size: MediaSize) -> dict[str, Any]:
    """Boxes are rounded where they become fractions, points only where they become words."""
    form = PROMPT.places
    assert form is not None
    boxes, points = case["boxes_xyxy_px"], case["points_px"]
    small = replace(form, opening="(", closing=")")
    return {
        "boxes_after_expand2square": [list(coordinates.moved(b, size, form)) for b in boxes],
        "points_after_expand2square": [list(coordinates.moved(p, size, form)) for p in points],
        "normalised_boxes": [[round(v, form.decimals) for v in coordinates.fractions(b, size, form)] for b in boxes],
        "normalised_points": [list(coordinates.fractions(p, size, form)) for p in points],
        "text_boxes": f"x {coordinates.write(boxes, size, form)} y",
        "text_points": f"x {coordinates.write(points, size, form)} y",
        "text_boxes_small_brackets": f"x {coordinates.write(boxes, size, small)}",
        "extract_boxes": [list(map(list, g)) for g in coordinates.read(case["text_boxes"], form)],
        "extract_points": [list(map(list, g)) for g in coordinates.read(case["text_points"], form, 2)],
    }
