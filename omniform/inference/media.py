"""Media in answers: which tokens may come, what their codes become, and guidance while they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import dropwhile
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
from omniform.parts import OutputDecoder


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
            SamplingError: no room for a medium that must come, or a choice that an output does not take.
        """
        written = [TEXT, *(s.modality for s in self.grammar.spans if s.written)]
        for modality in (*config.modalities, *config.media, *((config.first,) if config.first else ())):
            if modality not in written:
                raise unknown(f"output of {self.model.system.slug}", modality, written)
        for modality, own in config.media.items():
            _check(self.model.system.outputs[modality], modality, own)
        walk = Walk(self.grammar, config.modalities, config.first)
        if walk.needs() > room:
            raise SamplingError(f"{room} tokens may come, but the medium that is asked for takes {walk.needs()}")
        return walk

    def _mask(self, allowed: Allowed) -> Bool[Tensor, " vocab"]:
        """Which ids may come."""
        mask = torch.zeros(self.vocab, dtype=torch.bool)
        if allowed.words:
            mask[:] = True
            mask[sorted(self.grammar.wordless)] = False
        mask[sorted(allowed.tokens(self.grammar))] = True
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
        """
        decoder: Any = self.model.part(f"{modality}.decoder")
        chosen = config.of(modality)
        own = chosen if isinstance(chosen, MediaSampling) else MediaSampling()
        hidden = decoder.chosen(torch.stack(list(trail)))[None]
        ids = torch.tensor([self.processor.signals[modality].ids], device=hidden.device)
        guidance = own.guidance[0] if own.guidance else 0.0
        made = decoder.make(self.model.backbone, hidden, ids, config.random(name), guidance, own.steps)
        return Media(modality, made, "assistant")

    def guide(
        self, walks: Sequence[Walk], ids: Sequence[Ids], config: GenerationConfig,
        prefill: Callable[[Sequence[Sample]], Read],
    ) -> Guide | None:  # fmt: skip
        """Guidance of the media of one modality that the last ids of prompts begin; None where there is none."""
        modality = walks[0].modality
        spec = self.model.system.outputs[modality]
        if not isinstance(spec, Codes):
            return None
        chosen = config.of(modality)
        scales = (chosen.guidance if isinstance(chosen, MediaSampling) else ()) or spec.guidance
        used = list(dropwhile(lambda step: step[1] == 1, zip(spec.contexts, scales, strict=False)))  # 1 leads nowhere
        if not used:
            return None
        bos = self.processor.tokenizer.bos_id if self.model.system.prompt.bos else None
        spans = [self.grammar.spans[walk.open] for walk in walks]
        poor = [[poorer(context, i, span, bos) for context, _ in used] for i, span in zip(ids, spans, strict=True)]
        return Guide(self.model.backbone, prefill, poor, [scale for _, scale in used])


def _check(output: OutputDecoder, modality: str, own: MediaSampling) -> None:
    """Refuse scales and steps that an output has no use for."""
    contexts = len(output.contexts) if isinstance(output, Codes) else 0
    scales = 1 if output.generator else contexts
    if own.guidance and not scales:
        raise SamplingError(f"guidance {own.guidance}: {modality} is written without guidance; leave it out")
    if len(own.guidance) not in (0, scales):
        how = (
            "is made under one scale; give one" if output.generator else f"has {contexts} contexts, give one scale each"
        )
        raise SamplingError(f"guidance {own.guidance}: {modality} {how}")
    if own.steps and not output.generator:
        raise SamplingError(f"steps {own.steps}: {modality} is written as codes, not made by denoising; leave it out")
