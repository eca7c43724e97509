"""Parameters of the networks that latent diffusion shares (arXiv:2112.10752), as diffusers builds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def conv(kernel: int, a: int, b: int) -> int:
    """A convolution with bias."""
    return kernel * kernel * a * b + b


def residual(a: int, b: int) -> int:
    """Two norms, two convolutions, and a third where the width changes."""
    return 2 * a + conv(3, a, b) + 2 * b + conv(3, b, b) + (conv(1, a, b) if a != b else 0)


def attention(c: int, condition: int) -> int:
    """One layer that attends to the latents and to a condition of a width, between two projections."""
    own, cross, mlp = 4 * c * c + c, 2 * c * c + 2 * c * condition + c, (c + 1) * 8 * c + (4 * c + 1) * c
    return 2 * c + 2 * (c + 1) * c + 6 * c + own + cross + mlp


def residuals(channels: tuple[int, ...], blocks: int) -> Iterator[tuple[int, int]]:
    """(in, out) of the residual blocks of a UNet's levels, those of the way up with what is handed over."""
    over, before = [channels[0]], channels[0]
    for number, c in enumerate(channels):
        for _ in range(blocks):
            yield before, c
            over.append(c)
            before = c
        over += [c] if number + 1 < len(channels) else []
    for c in reversed(channels):
        for _ in range(blocks + 1):
            yield before + over.pop(), c
            before = c


def coder_params(colours: int, latent: int, channels: tuple[int, ...], blocks: int) -> int:
    """An autoencoder of so many channels of its pictures and latents."""
    inner, first = channels[-1], channels[0]
    middle = 2 * residual(inner, inner) + 4 * (inner + 1) * inner + 2 * inner
    total = conv(3, colours, first) + middle + 2 * inner + conv(3, inner, 2 * latent)  # encoder
    total += conv(3, latent, inner) + middle + 2 * first + conv(3, first, colours)  # decoder
    total += conv(1, 2 * latent, 2 * latent) + conv(1, latent, latent)
    total += sum(conv(3, c, c) for c in (*channels[:-1], *channels[1:]))
    for widths, count in ((channels, blocks), (channels[::-1], blocks + 1)):
        ins = (widths[0], *widths[:-1])
        total += sum(residual(a, b) + (count - 1) * residual(b, b) for a, b in zip(ins, widths, strict=True))
    return total


def coder_config(colours: int, latent: int, channels: tuple[int, ...], blocks: int, groups: int) -> dict[str, Any]:
    """Arguments of that autoencoder."""
    return {
        "in_channels": colours, "out_channels": colours, "latent_channels": latent, "block_out_channels": channels,
        "layers_per_block": blocks, "norm_num_groups": groups,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
    }  # fmt: skip
