"""`omniform generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omniform.cli import options


def command(
    run: options.Model,
    question: Annotated[str, typer.Argument(help="What is asked.", show_default=False)],
    image: Annotated[list[str] | None, typer.Option(help="A picture (path or URL); may be given again.")] = None,
    video: Annotated[list[str] | None, typer.Option(help="A video (path or URL); may be given again.")] = None,
    audio: Annotated[list[str] | None, typer.Option(help="A recording (path or URL); may be given again.")] = None,
    system: options.ReleaseOf = "",
    system_text: options.SystemText = "",
    max_new_tokens: options.NewTokens = 128,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    stop: options.Stop = None,
    seed: options.Seed = 0,
    modality: options.Modality = None,
    first: options.First = "",
    guidance: options.Guidance = None,
    steps: options.Steps = None,
    out: Annotated[Path | None, typer.Option(help="Directory for document.json and media.", show_default=False)] = None,
    device: options.Device = "",
    json: options.Json = False,
) -> None:
    """Ask one question about media."""
    from omniform.cli.output import print_json
    from omniform.cli.streaming import say
    from omniform.data.document import Document, Media, Text
    from omniform.data.record import record_of, write_record
    from omniform.inference.load import open_model

    config = options.generation(
        temperature, top_k, top_p, guidance, steps, max_new_tokens=max_new_tokens, seed=seed, stop=tuple(stop or ()),
        repetition_penalty=repetition_penalty, modalities=tuple(modality or ()), first=first,
    )  # fmt: skip
    given = {"image": image or (), "video": video or (), "audio": audio or ()}
    media = [Media(modality, source) for modality, sources in given.items() for source in sources]
    opening = (Text(system_text, "system"),) if system_text else ()
    document = Document((*opening, *media, Text(question)))
    engine = open_model(run, system=system or None, device=device or None)
    answer = say(engine.stream(document, config), quiet=json)
    whole = Document((*document.segments, *answer.segments))
    if out is not None:
        whole = write_record(whole, out)
    if json:
        chain = engine.model.system.prompt.chain
        parts = {"parts": chain.read(answer.text)} if chain else {}
        print_json({**record_of(whole), **parts, "finish": answer.finish, "tokens": len(answer.tokens)})
