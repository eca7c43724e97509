"""Codes: media as tokens of the backbone's own vocabulary, which a codec turns back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self, TypeAlias

from omniform.geometry import SpecError
from omniform.grammar import CodeSpan
from omniform.parts import Codec, OutputDecoder, Shrunk

Context: TypeAlias = Literal["nothing", "media"]
"""What is left of a prompt for guidance: nothing but the signs that a medium begins, or the media of the modality."""


@dataclass(frozen=True, kw_only=True)
class Codes(OutputDecoder):
    """Cross entropy of the codes; spans are kept whole by `grammar`, and `codec` turns them into media.

    Attributes:
        codec, span: None are those of the discrete input of the same modality.
        contexts: poorer contexts of classifier-free guidance, the poorest first (arXiv:2207.12598, 2211.09800).
        guidance: published scale of the step from each context to the next richer one, the last to the whole prompt;
            logits are the poorest one's plus each step by its scale.
    """

    form = "discrete"
    implementation = "omniform.decoders.codes_module:CodesModule"

    codec: Codec | None = None
    span: CodeSpan | None = None
    contexts: tuple[Context, ...] = ()
    guidance: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if (self.codec is None) != (self.span is None):
            raise SpecError("Codes has a codec and a span of its own, or neither; give both")
        if len(self.guidance) not in (0, len(self.contexts)):
            raise SpecError(
                f"guidance has {len(self.guidance)} scales for {len(self.contexts)} contexts; give one each, or none"
            )

    def shrunk(self, size: Shrunk) -> Self:
        if self.codec is None or self.span is None:
            return self
        codec = self.codec.shrunk(size)
        return self.but(codec=codec, span=self._within(self.span, self.codec, codec))

    @staticmethod
    def _within(span: CodeSpan, old: Codec, new: Codec) -> CodeSpan:
        """The span of a shrunk codec: bounds within what one medium can have keep their share of it."""
        most, now = old.codes(old.size), new.codes(new.size)
        if old.counted or span.most > most:
            return span
        return replace(span, least=max(1, span.least * now // most), most=max(1, span.most * now // most))
