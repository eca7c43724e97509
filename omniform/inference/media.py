"""Media in answers: which tokens may come, what their codes become, and guidance while they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from omniform.data.document import Media
from omniform.data.processor import Ids, Processor, Sample
from omniform.decoders.codes import Codes
from omniform.decoders.text import Text
from omniform.grammar import TEXT, Allowed, Grammar, Walk
from omniform.index import unknown
from omniform.inference.guidance import Guide, poorer
from omniform.inference.memory import Read
from omniform.inference.sampling import GenerationConfig, MediaSampling, SamplingError
from omniform.model import Lmm


class MediaWriter:
    """What an engine knows of the codes of one system, for answers that end by certain ids."""

    def __init__(self, model: Lmm, processor: Processor, ends: frozenset[int]) -> None:
        self.model, self.processor = model, processor
        text = model.system.outputs[TEXT]
        never = processor.tokenizer.like(text.reserved) if isinstance(text, Text) and text.reserved else ()
        self.grammar = Grammar.of([*processor.spans.values(), *processor.signals.values()], ends, never)
        self.vocab = model.system.backbone.vocab
        self.mask = cache(self._mask)

    def walk(self, config: GenerationConfig, room: int) -> Walk:
        """An answer that has not begun.

        Raises:
            UnknownName: a modality that the system does not write.
            SamplingError: no room for a medium that must come.
        """
        written = [TEXT, *(s.modality for s in self.grammar.spans if s.written)]
        for modality in (*config.modalities, *config.media, *((config.first,) if config.first else ())):
            if modality not in written:
                raise unknown(f"output of {self.model.system.slug}", modality, written)
        walk = Walk(self.grammar, config.modalities, config.first)
        if walk.needs() > room:
            raise SamplingError(f"{room} tokens may come, but the medium that is asked for takes {walk.needs()}")
        return walk

    def _mask(self, allowed: Allowed) -> Bool[Tensor, " vocab"]:
        """Which ids may come."""
        grammar, mask = self.grammar, torch.zeros(self.vocab, dtype=torch.bool)
        if allowed.words:
            mask[:] = True
            mask[sorted(grammar.never | grammar.ends)] = False
        few = [grammar.spans[n].begin for n in allowed.begins]
        few += [allowed.only] if allowed.only >= 0 else []
        if allowed.span >= 0 and allowed.only < 0:
            span = grammar.spans[allowed.span]
            few += span.book(allowed.book) if allowed.book >= 0 else ()
            few += [span.end] if allowed.closes else []
        mask[[*few, *(sorted(grammar.ends) if allowed.ends else ())]] = True
        if not bool(mask.any()):
            raise SamplingError(f"nothing may come next: {allowed}; the vocabulary has no token that ends an answer")
        return mask

    def masks(self, allowed: Sequence[Allowed]) -> Bool[Tensor, "rows vocab"]:
        """Which ids may come in each row."""
        return torch.stack([self.mask(one) for one in allowed])

    def render(self, modality: str, codes: Sequence[int]) -> Media:
        """The medium of codes."""
        decoder: Any = self.model.part(f"{modality}.decoder")
        return Media(modality, decoder.render(self.model.codecs[modality], codes), "assistant")

    def draw(self, modality: str, trail: Sequence[Tensor], name: str, config: GenerationConfig) -> Media:
        """The medium of a signal, made of the hidden states there.

        Args:
            name: of the random numbers.

        Raises:
            SamplingError: more than one scale of guidance.
        """
        decoder: Any = self.model.part(f"{modality}.decoder")
        chosen = config.of(modality)
        own = chosen if isinstance(chosen, MediaSampling) else MediaSampling()
        if len(own.guidance) > 1:
            raise SamplingError(f"guidance {own.guidance}: {modality} is made under one scale; give one")
        hidden = decoder.chosen(torch.stack(list(trail)))[None]
        ids = torch.tensor([self.processor.signals[modality].ids], device=hidden.device)
        guidance = own.guidance[0] if own.guidance else 0.0
        made = decoder.make(self.model.backbone, hidden, ids, config.random(name), guidance, own.steps)
        return Media(modality, made, "assistant")

    def guide(
        self, walk: Walk, ids: Ids, config: GenerationConfig, prefill: Callable[[Sequence[Sample]], Read]
    ) -> Guide | None:
        """Guidance of the medium that the last of the ids begins; None where there is none.

        Raises:
            SamplingError: not as many scales as the output has contexts.
        """
        spec = self.model.system.outputs[walk.modality]
        if not isinstance(spec, Codes) or not spec.contexts:
            return None
        chosen = config.of(walk.modality)
        scales = (chosen.guidance if isinstance(chosen, MediaSampling) else ()) or spec.guidance
        if not scales or set(scales) == {1.0}:
            return None
        if len(scales) != len(spec.contexts):
            raise SamplingError(
                f"guidance {scales}: {walk.modality} has {len(spec.contexts)} contexts, give one scale each"
            )
        bos = self.processor.tokenizer.bos_id if self.model.system.prompt.bos else None
        contexts = [poorer(context, ids, self.grammar.spans[walk.open], bos) for context in spec.contexts]
        return Guide(self.model.backbone, prefill, contexts, scales)
