"""`omniform generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[str, typer.Argument(help="A run, or a folder or hub id with a saved or released model.")],
    question: Annotated[str, typer.Argument(help="What is asked.", show_default=False)],
    image: Annotated[list[str] | None, typer.Option(help="A picture (path or URL); may be given again.")] = None,
    video: Annotated[list[str] | None, typer.Option(help="A video (path or URL); may be given again.")] = None,
    audio: Annotated[list[str] | None, typer.Option(help="A recording (path or URL); may be given again.")] = None,
    system: Annotated[str, typer.Option(help="Of a release that does not say whose it is.")] = "",
    system_text: Annotated[str, typer.Option(help="System text instead of the model's own.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Only the k likeliest tokens; 0 is all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest tokens of this mass; 1 is all.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Fixes all random choices.")] = 0,
    modality: Annotated[
        list[str] | None, typer.Option(help="What may come, such as image; may be given again.")
    ] = None,
    first: Annotated[str, typer.Option(help="Modality that the answer begins with.")] = "",
    out: Annotated[Path | None, typer.Option(help="Directory for document.json and media.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda ...; by default the accelerator if there is one.")] = "",
    json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Ask one question about media."""
    from omniform.cli.output import print_json
    from omniform.cli.streaming import say
    from omniform.data.document import Document, Media, Text
    from omniform.data.record import record_of, write_record
    from omniform.inference.load import open_model
    from omniform.inference.sampling import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
        modalities=tuple(modality or ()), first=first,
    )  # fmt: skip
    given = {"image": image or (), "video": video or (), "audio": audio or ()}
    media = [Media(modality, source) for modality, sources in given.items() for source in sources]
    opening = (Text(system_text, "system"),) if system_text else ()
    document = Document((*opening, *media, Text(question)))
    engine = open_model(run, system=system or None, device=device or None)
    answer = say(engine.stream(document, config), quiet=json)
    whole = Document((*document.segments, *answer.segments))
    if out is not None:
        write_record(whole, out)
    if json:
        chain = engine.model.system.prompt.chain
        parts = {"parts": chain.read(answer.text)} if chain else {}
        print_json({**record_of(whole), **parts, "finish": answer.finish, "tokens": len(answer.tokens)})
