"""Contracts of outputs beyond the four verbs: media that are told along with words."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.geometry import MediaSize, Plan
from omniform.parts import Codec, OutputDecoder, Views


@dataclass(frozen=True, kw_only=True)
class ToldAlong(OutputDecoder):
    """An output whose media are told along with the words of an answer, from the hidden states of all its tokens.

    They take no positions, and are learned as codes. Its module has two more verbs: `symbols` of further hidden states,
    and the `units` that these come to.

    Attributes:
        codec: its codes, and what makes media of them.
        views: how a medium becomes what the codec reads.
        piece: codes after which a piece is given out while the words go on.
    """

    form = "continuous"

    codec: Codec
    views: Views
    piece: int

    def flops(self, dim: int, tokens: int) -> int:
        """Forward FLOPs of telling the codes of an answer of so many tokens, from hidden states of width `dim`."""
        raise NotImplementedError

    def plan(self, media: MediaSize) -> Plan:
        """What the codec reads of one medium.

        Raises:
            SpecError: the views cannot show it.
        """
        return self.views.plan(media, self.codec.sight(lambda view: (self.codec.codes(self.codec.extent(view)),)))
