"""Text: next-token prediction through the backbone's own head."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.parts import OutputDecoder


@dataclass(frozen=True, kw_only=True)
class Text(OutputDecoder):
    """Cross entropy at the learned positions, weighted per token.

    Attributes:
        reserved: pattern of vocabulary entries that text never uses, where the vocabulary holds codes of media too.
    """

    form = "text"
    implementation = "omniform.decoders.text_module:TextModule"

    reserved: str = ""
