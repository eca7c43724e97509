"""`omniform codec reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omniform.cli import options


def command(
    run: Annotated[Path, typer.Argument(help="Directory of a codec's run.")],
    media: Annotated[
        list[Path] | None, typer.Argument(help="Files; without any, the recipe's data is measured.", show_default=False)
    ] = None,
    data: options.Data = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many media.", show_default=False)] = None,
    out: options.ResultsOut = None,
    device: options.Device = "",
) -> None:
    """Encode media and decode their codes again.

    Files are written beside each other as NAME.codec.png, with the PSNR of each. Data writes reconstruction.json and
    report.html.
    """
    if media:
        _files(run, media, out or run / "reconstructed", device)
    else:
        measure_run(run, data, limit, out or run, device)


def _files(run: Path, media: list[Path], out: Path, device: str) -> None:
    from omniform.cli.output import print_table
    from omniform.data.dataset import Documents
    from omniform.data.document import Document, Media
    from omniform.data.pool import Pool
    from omniform.evaluation.reconstruction import reconstruct
    from omniform.training.codec import open_codec

    recipe, model = open_codec(run, device or "cpu")
    documents = Documents([Document((Media(recipe.codec.modality, str(path)),), str(path)) for path in media])
    found = reconstruct(model, Pool.of(documents, recipe.codec, recipe.views))
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, name in enumerate(found.names):
        target = out / f"{Path(name).stem}.codec.png"
        found.picture(number).save(target)
        rows.append((str(target), f"{found.psnr[number]:.2f}"))
    print_table(("file", "PSNR in dB"), rows, right=("PSNR in dB",))


def measure_run(run: Path, data: str, limit: int | None, out: Path, device: str) -> None:
    """Measure a run on one of its datasets, write what was found, and say it."""
    from omniform.cli.progress import progress
    from omniform.evaluation.codec_report import codec_report
    from omniform.evaluation.evaluation import write_whole
    from omniform.evaluation.reconstruction import measured
    from omniform.training.codec import open_codec

    recipe, model = open_codec(run, device or "cpu")
    with progress("reconstructing", "media") as show:
        found = measured(recipe, model, data, limit, show)
    write_whole(out / "reconstruction.json", found.json())
    write_whole(out / "report.html", codec_report(run, recipe, found))
    print(
        f"{len(found.psnr):,} {recipe.codec.modality}s of {found.name}: PSNR {found.mean:.2f} dB (mean of each; all "
        f"pixels together {found.pooled:.2f} dB), {found.used:,} of {recipe.codec.codebook:,} codes used\n"
        f"{out / 'report.html'}"
    )
