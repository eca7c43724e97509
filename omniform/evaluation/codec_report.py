"""`report.html` of a codec's run: how much of the pictures it keeps, originals beside what came back."""

from __future__ import annotations

from html import escape
from pathlib import Path

import torch

from omniform.evaluation.chart import Curve
from omniform.evaluation.reconstruction import Reconstruction, picture_of
from omniform.evaluation.report import curve_block, facts_block, page
from omniform.evaluation.run_report import duration
from omniform.evaluation.shown import picture_uri
from omniform.training.codec_recipe import CodecRecipe
from omniform.training.metrics import read_records

SHOWN, SCALE = 24, 2
"""Pictures in the page, from the best kept to the worst, and how much they are enlarged."""


def codec_report(run: Path, recipe: CodecRecipe, found: Reconstruction) -> str:
    """The page."""
    records = read_records(run)
    curve = Curve("codec", [r["step"] for r in records], [r["loss"] for r in records])
    codec = recipe.codec
    facts: dict[str, dict[str, str]] = {
        "Codec": {
            "part": codec.title, "parameters": f"{codec.num_params():,}",
            "codes of a medium": f"{codec.codes(codec.size):,}",
            "codes used": f"{found.used:,} of {codec.codebook:,}",
        },
        "Training": {
            "time": duration(records[-1]["seconds"]), "steps": f"{records[-1]['overall']:,}",
            "media": f"{records[-1]['documents']:,}", "seed": str(recipe.seed),
        } if records else {},
        "Made with": {"torch": torch.__version__},
    }  # fmt: skip
    title = f"{recipe.name}: {codec.title}"
    blocks = [_headline(title, found), curve_block([curve]), _gallery(found)]
    return page(title, [*blocks, facts_block(facts, {"The whole recipe": recipe.yaml()})])


def _headline(title: str, found: Reconstruction) -> str:
    ordered = sorted(found.psnr)
    low, middle, high = (ordered[int(part * (len(ordered) - 1))] for part in (0.1, 0.5, 0.9))
    return (
        f'<header><h1>{escape(title)}</h1><p class="quiet">{len(ordered):,} pictures of {escape(found.name)}</p>'
        f'</header>\n<section class="headline"><strong class="number">{found.mean:.2f} dB</strong><div>'
        f"<p>mean PSNR of pictures and what their codes give back; all pixels together {found.pooled:.2f} dB</p>"
        f'<p class="quiet small">a tenth is below {low:.1f} dB, half below {middle:.1f}, a tenth above {high:.1f}</p>'
        "</div></section>"
    )


def _gallery(found: Reconstruction) -> str:
    """Originals beside what came back, evenly spread over the order of their PSNR."""
    order = sorted(range(len(found.psnr)), key=found.psnr.__getitem__, reverse=True)
    count = min(SHOWN, len(order))
    chosen = [order[i * (len(order) - 1) // max(1, count - 1)] for i in range(count)]
    cards = "".join(_card(found, number) for number in chosen)
    return f'<section><h2>Original and reconstruction, best to worst</h2><div class="grid">{cards}</div></section>'


def _card(found: Reconstruction, number: int) -> str:
    both = torch.cat([found.given[number], found.found[number]], dim=-1)
    picture = picture_of(both)
    uri = picture_uri(picture.resize((picture.width * SCALE, picture.height * SCALE), resample=0))
    return (
        f'<figure><img src="{uri}" alt="" loading="lazy" style="aspect-ratio:2"><figcaption>'
        f'<p class="small">{escape(found.names[number])}</p><p class="number">{found.psnr[number]:.2f} dB</p>'
        "</figcaption></figure>"
    )
