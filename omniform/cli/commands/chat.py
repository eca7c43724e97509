"""`omniform chat`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from omniform.data.document import Media
    from omniform.inference.chat import Chat

HELP = """\
Type a question. Commands:
  /image PATH   a picture that the next question is about; also /video, /audio
  /new          forget the conversation
  /quit         leave (or end of input)"""


def command(
    run: Annotated[str, typer.Argument(help="A run, or a folder or hub id with a saved or released model.")],
    image: Annotated[
        list[str] | None, typer.Option(help="A picture for the first question; may be given again.")
    ] = None,
    system: Annotated[str, typer.Option(help="Of a release that does not say whose it is.")] = "",
    system_text: Annotated[str, typer.Option(help="System text instead of the model's own.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest tokens of this mass; 1 is all.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Fixes all random choices.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda ...; by default the accelerator if there is one.")] = "",
) -> None:
    """Talk to a model about pictures."""
    from omniform.data.document import Media
    from omniform.inference.chat import Chat
    from omniform.inference.load import open_model
    from omniform.inference.sampling import GenerationConfig

    config = GenerationConfig(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    engine = open_model(run, system=system or None, device=device or None)

    def new() -> Chat:
        return Chat(engine, config, system=system_text or None)

    talk = Talk(new(), [Media("image", source) for source in image or ()])
    print(HELP)
    while (line := _read()) is not None and line != "/quit":
        if line == "/new":
            talk = Talk(new(), [])
        elif line:
            talk.take(line)


class Talk:
    """A conversation, and the media that wait for its next question."""

    def __init__(self, chat: Chat, waiting: list[Media]) -> None:
        self.chat = chat
        self.waiting = waiting

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

        waiting, self.waiting = self.waiting, []
        say(self.chat.stream(*waiting, Text(text)))


def _read() -> str | None:
    """The next line; None at the end of the input."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - line editing and history
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return None
