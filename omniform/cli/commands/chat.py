"""`omniform chat`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omniform.cli import options

if TYPE_CHECKING:
    from omniform.data.document import Media
    from omniform.inference.chat import Chat

HELP = """\
Type a question. Commands:
  /image PATH   a picture that the next question is about; also /video, /audio
  /new          forget the conversation
  /quit         leave (or end of input)"""


def command(
    run: options.Model,
    image: Annotated[
        list[str] | None, typer.Option(help="A picture for the first question; may be given again.")
    ] = None,
    system: options.ReleaseOf = "",
    system_text: options.SystemText = "",
    max_new_tokens: options.NewTokens = 256,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    stop: options.Stop = None,
    seed: options.Seed = 0,
    modality: options.Modality = None,
    guidance: options.Guidance = None,
    steps: options.Steps = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for document.json and media, written after every answer.")
    ] = None,
    device: options.Device = "",
) -> None:
    """Talk to a model about pictures, videos and sound."""
    from omniform.data.document import Media
    from omniform.inference.chat import Chat
    from omniform.inference.load import open_model

    config = options.generation(
        temperature, top_k, top_p, guidance, steps, max_new_tokens=max_new_tokens, seed=seed, stop=tuple(stop or ()),
        repetition_penalty=repetition_penalty, modalities=tuple(modality or ()),
    )  # fmt: skip
    engine = open_model(run, system=system or None, device=device or None)

    def new() -> Chat:
        return Chat(engine, config, system=system_text or None)

    talk = Talk(new(), [Media("image", source) for source in image or ()], out)
    print(HELP)
    while (line := _read()) is not None and line != "/quit":
        if line == "/new":
            talk = Talk(new(), [], out)
        elif line:
            talk.take(line)


class Talk:
    """A conversation, the media that wait for its next question, and where it is kept."""

    def __init__(self, chat: Chat, waiting: list[Media], out: Path | None = None) -> None:
        self.chat = chat
        self.waiting = waiting
        self.out = out

    def take(self, line: str) -> None:
        """One line of the user: a medium, or a question; an error is told and the conversation goes on."""
        from omniform.cli.errors import is_expected, sentence

        try:
            if line.startswith("/"):
                self._medium(*line[1:].partition(" ")[::2])
            else:
                self._ask(line)
        except Exception as error:
            if not is_expected(error):
                raise
            print(sentence(error), file=sys.stderr)

    def _medium(self, modality: str, source: str) -> None:
        from omniform.data.document import Media
        from omniform.data.media import size_of
        from omniform.index import unknown

        known = tuple(self.chat.engine.model.system.inputs)
        if modality not in known:
            raise unknown("command", modality, (*known, "new", "quit"))
        medium = Media(modality, source.strip())
        size = size_of(medium)
        self.waiting.append(medium)
        print(f"({modality}, {size.seconds:.1f} s)" if size.samples else f"({modality}, {size.width} x {size.height})")

    def _ask(self, text: str) -> None:
        from omniform.cli.streaming import say
        from omniform.data.document import Text
        from omniform.data.record import write_record

        waiting, self.waiting = self.waiting, []
        say(self.chat.stream(*waiting, Text(text)))
        if self.out is not None:
            write_record(self.chat.document, self.out)


def _read() -> str | None:
    """The next line; None at the end of the input."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - line editing and history
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return None
