"""How the next token is chosen: pure functions of logits, and the numbers that say how.

Order and meaning of the steps are those of transformers' logits processors: repetition penalty, banned ids,
temperature, top-k, top-p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from omniform.frozen import FrozenMap


class SamplingError(ValueError):
    """A number that no choice can be made with; the message names it and what would do."""


@dataclass(frozen=True, kw_only=True)
class MediaSampling:
    """How the codes of one modality are chosen; fields as in `GenerationConfig`.

    Attributes:
        guidance: scale of each of the output's contexts (`decoders.codes.Codes`); () is the published ones, and all 1
            is the model's own distribution. For what a diffusion model makes, its one scale.
        steps: denoising steps of a diffusion model; 0 is the published number.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: tuple[float, ...] = ()
    steps: int = 0

    def __post_init__(self) -> None:
        _check(self)
        rules = (
            (all(map(isfinite, self.guidance)), "guidance", "numbers"),
            (self.steps >= 0, "steps", "0 (the published number) or more"),
        )
        _hold(self, rules)


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How answers are generated.

    Attributes:
        max_new_tokens: most tokens of an answer, the one that ends it included.
        min_new_tokens: tokens before which no end token is chosen.
        temperature: 0 always takes the likeliest token.
        top_k: only the k likeliest tokens; 0 is all.
        top_p: only the smallest set of likeliest tokens whose mass is at least p; 1 is all.
        repetition_penalty: divides positive and multiplies negative logits of tokens that stand in the prompt or the
            answer (arXiv:1909.05858 section 4.1).
        seed: with a document's id, fixes all random choices of its answer.
        stop: strings that end an answer, besides the prompt's.
        media: modality -> how its codes are chosen; where one is left out, as text is. Not "text", which all the
            other numbers are for.
        modalities: those that may come; empty is all that the system writes. Without "text" an answer is one medium.
        first: modality that an answer begins with; empty leaves it to the model.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    media: Mapping[str, MediaSampling] = FrozenMap()
    modalities: tuple[str, ...] = ()
    first: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "media", FrozenMap(self.media))
        _check(self)
        rules = (
            (self.max_new_tokens >= 1, "max_new_tokens", "at least 1"),
            (0 <= self.min_new_tokens <= self.max_new_tokens, "min_new_tokens", "0 to max_new_tokens"),
            (self.repetition_penalty > 0, "repetition_penalty", "above 0; 1 is no penalty"),
            (all(self.stop), "stop", "strings of at least one character"),
            ("text" not in self.media, "media", "of other modalities than text; its numbers stand beside media"),
            (not self.modalities or self.first in ("", *self.modalities), "first", f"one of {self.modalities}"),
        )
        _hold(self, rules)

    def of(self, modality: str) -> Choosing:
        """How tokens of a modality are chosen."""
        return self.media.get(modality, self)

    def random(self, document: str) -> torch.Generator:
        """The random numbers of one document's answer: the same alone, in any batch, and on any device."""
        digest = sha256(f"{self.seed}/{document}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


Choosing: TypeAlias = GenerationConfig | MediaSampling


def _check(numbers: Choosing) -> None:
    rules = (
        (numbers.temperature >= 0, "temperature", "0 (always the likeliest token) or more"),
        (numbers.top_k >= 0, "top_k", "0 (all tokens) or more"),
        (0 < numbers.top_p <= 1, "top_p", "above 0 and at most 1 (all tokens)"),
    )
    _hold(numbers, rules)


def _hold(numbers: Choosing, rules: Sequence[tuple[bool, str, str]]) -> None:
    for holds, name, fits in rules:
        if not holds:
            raise SamplingError(f"{name} is {getattr(numbers, name)!r}, but must be {fits}")


def choose(
    logits: Float[Tensor, "rows vocab"],
    config: Choosing,
    randoms: Sequence[torch.Generator],
    *,
    seen: Bool[Tensor, "rows vocab"] | None = None,
    banned: Sequence[int] = (),
    allowed: Bool[Tensor, "rows vocab"] | None = None,
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The next token of each row, and its log-probability under the model itself (before any of the steps).

    Args:
        seen: tokens that the repetition penalty meets.
        banned: ids that must not be chosen.
        allowed: for each row the ids that may be chosen; all where it is None.
    """
    logits = logits.float()
    scores = logits
    if seen is not None and isinstance(config, GenerationConfig):  # codes are not penalised
        scores = penalised(logits, seen, config.repetition_penalty)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    if banned:
        scores = scores.index_fill(1, torch.tensor(banned, device=scores.device), float("-inf"))
    if config.temperature == 0:
        tokens = scores.argmax(-1)
    else:
        scores = shaped(scores, config)
        tokens = draw(scores, noise(randoms, scores.shape[-1]).to(scores.device))
    return tokens, logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def shaped(scores: Float[Tensor, "rows vocab"], config: Choosing) -> Float[Tensor, "rows vocab"]:
    """Logits of what is sampled from: temperature, then top-k, then top-p."""
    scores = (scores - scores.amax(-1, keepdim=True)) / config.temperature
    if 0 < config.top_k < scores.shape[-1]:
        scores = top_k(scores, config.top_k)
    if config.top_p < 1:
        scores = top_p(scores, config.top_p)
    return scores


def penalised(
    logits: Float[Tensor, "rows vocab"], seen: Bool[Tensor, "rows vocab"], penalty: float
) -> Float[Tensor, "rows vocab"]:
    """Tokens seen become less likely by a factor on their logits, away from 0 where they are negative."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(scores: Float[Tensor, "rows vocab"], k: int) -> Float[Tensor, "rows vocab"]:
    """All but the k highest become -inf; ties with the k-th stay."""
    least = scores.topk(k).values[:, -1:]
    return scores.masked_fill(scores < least, float("-inf"))


def top_p(scores: Float[Tensor, "rows vocab"], p: float) -> Float[Tensor, "rows vocab"]:
    """All but the smallest set of likeliest tokens with a mass of at least p become -inf."""
    ordered, order = scores.sort(descending=True, stable=True)
    mass = ordered.softmax(-1)
    needless = mass.cumsum(-1) - mass >= p
    needless[:, 0] = False  # p may be lost in rounding, the likeliest token never is
    return scores.masked_fill(needless.scatter(1, order, needless), float("-inf"))


def noise(randoms: Sequence[torch.Generator], vocab: int) -> Float[Tensor, "rows vocab"]:
    """Standard exponential numbers, each row from its own generator."""
    return torch.stack([torch.empty(vocab).exponential_(generator=random) for random in randoms])


def draw(scores: Float[Tensor, "rows vocab"], waits: Float[Tensor, "rows vocab"]) -> Int[Tensor, " rows"]:
    """A token of each row with probability softmax(scores): of exponential waits at these rates, the shortest.

    Unlike a number looked up in cumulated probabilities, the choice does not change when another batch rounds the
    scores differently, or puts a token at the rim of top-p in or out, unless two waits are as close as that.
    """
    return (scores - waits.log()).argmax(-1)
