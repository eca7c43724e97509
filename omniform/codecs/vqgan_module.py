"""Module of `codecs.vqgan`; parameter names are those of the public checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from omniform.codecs.vqgan import GROUPS, VqGan
from omniform.geometry import Grid, SpecError


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class Block(nn.Module):
    """Two convolutions beside an identity, which is projected where the channels change."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(a), nn.Conv2d(a, b, 3, padding=1)
        self.norm2, self.conv2 = norm(b), nn.Conv2d(b, b, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(a, b, 1) if a != b else nn.Identity()

    def forward(self, x: Float[Tensor, "n a h w"]) -> Float[Tensor, "n b h w"]:
        inside = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return self.nin_shortcut(x) + inside


class Attention(nn.Module):
    """One head over all cells of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        h = self.norm(x)
        q, k, v = (project(h).flatten(2).transpose(1, 2) for project in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(out.transpose(1, 2).unflatten(2, x.shape[2:]))


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            Block(channels, channels),
            Attention(channels),
            Block(channels, channels),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return self.block_2(self.attn_1(self.block_1(x)))


class Resample(nn.Module):
    """Halves a map, with a row and column of zeros at its lower right, or doubles it."""

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if up else nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """Residual blocks of one map size, each with attention behind it or none."""

    def __init__(self, blocks: list[tuple[int, int]], *, attends: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(Block(a, b) for a, b in blocks)
        self.attn = nn.ModuleList(Attention(b) for _, b in blocks if attends)

    def forward(self, x: Float[Tensor, "n a h w"]) -> Float[Tensor, "n b h w"]:
        for number, block in enumerate(self.block):
            x = block(x)
            x = self.attn[number](x) if len(self.attn) else x
        return x


class Encoder(nn.Module):
    def __init__(self, spec: VqGan) -> None:
        super().__init__()
        inner = spec.width * spec.levels[-1]
        self.conv_in = nn.Conv2d(3, spec.width, 3, padding=1)
        self.down = nn.ModuleList()
        for level, factor in enumerate(spec.levels):
            own = [(a, b) for n, a, b in spec.encoder_blocks() if n == level]
            self.down.append(Level(own, attends=spec.attends(level)))
            if level + 1 < len(spec.levels):
                self.down[-1].downsample = Resample(spec.width * factor, up=False)
        self.mid = Middle(inner)
        self.norm_out, self.conv_out = norm(inner), nn.Conv2d(inner, spec.latent, 3, padding=1)

    def forward(self, x: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n latent h w"]:
        x = self.conv_in(x)
        for number, level in enumerate(self.down, 1):
            x = level(x)
            x = level.downsample(x) if number < len(self.down) else x  # type: ignore[operator]
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, spec: VqGan) -> None:
        super().__init__()
        inner, outer = spec.width * spec.levels[-1], spec.width * spec.levels[0]
        self.conv_in = nn.Conv2d(spec.latent, inner, 3, padding=1)
        self.mid = Middle(inner)
        self.up = nn.ModuleList()
        for level, factor in enumerate(spec.levels):
            own = [(a, b) for n, a, b in spec.decoder_blocks() if n == level]
            self.up.append(Level(own, attends=spec.attends(level)))
            if level:
                self.up[-1].upsample = Resample(spec.width * factor, up=True)
        self.norm_out, self.conv_out = norm(outer), nn.Conv2d(outer, 3, 3, padding=1)

    def forward(self, z: Float[Tensor, "n latent h w"]) -> Float[Tensor, "n 3 height width"]:
        x = self.mid(self.conv_in(z))
        for number in reversed(range(len(self.up))):
            x = self.up[number](x)
            x = self.up[number].upsample(x) if number else x  # type: ignore[operator]
        return self.conv_out(F.silu(self.norm_out(x)))


class Codebook(nn.Module):
    """Entries, compared by Euclidean distance."""

    def __init__(self, entries: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, dim)
        nn.init.uniform_(self.embedding.weight, -1 / entries, 1 / entries)

    def nearest(self, x: Float[Tensor, "*cells dim"]) -> Int[Tensor, "*cells"]:
        table = self.embedding.weight
        distances = x.square().sum(-1, keepdim=True) + table.square().sum(-1) - 2 * x @ table.T
        return distances.argmin(-1)


class VqGanModule(nn.Module):
    """Pictures, normalised to [-1, 1], to codes and back."""

    def __init__(self, spec: VqGan) -> None:
        super().__init__()
        self.spec = spec
        self.encoder, self.decoder = Encoder(spec), Decoder(spec)
        self.quantize = Codebook(spec.entries, spec.dim)
        self.quant_conv = nn.Conv2d(spec.latent, spec.dim, 1)
        self.post_quant_conv = nn.Conv2d(spec.dim, spec.latent, 1)

    def normalise(self, pixels: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 height width"]:
        """8-bit pictures about zero, in the codec's precision."""
        mean, std = (pixels.new_tensor(x, dtype=torch.float).view(3, 1, 1) for x in (self.spec.mean, self.spec.std))
        return ((pixels.float() / 255 - mean) / std).to(self.quant_conv.weight.dtype)

    def features(self, pixels: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n dim h w"]:
        """What the codebook is compared with; pictures are continued to whole cells by repeating their rims."""
        below, right = (-side % self.spec.stride for side in pixels.shape[2:])
        if below or right:
            pixels = F.pad(pixels, (0, right, 0, below), mode="replicate")
        return self.quant_conv(self.encoder(pixels))

    def encode(self, pixels: Float[Tensor, "n 3 height width"]) -> Int[Tensor, "n codes"]:
        """Codes, row-major."""
        return self.nearest(self.features(pixels))

    def nearest(self, features: Float[Tensor, "n dim h w"]) -> Int[Tensor, "n codes"]:
        """Codes of the entries nearest to features, row-major."""
        cells = features.to(self.quant_conv.weight.dtype).flatten(2).transpose(1, 2)
        return self.quantize.nearest(cells)

    def entries(self, codes: Int[Tensor, "n codes"], grid: Grid) -> Float[Tensor, "n dim h w"]:
        """Codebook entries of codes, as a map."""
        return self.quantize.embedding(codes).transpose(1, 2).unflatten(2, grid)

    def decode(self, codes: Int[Tensor, "n codes"], extent: Grid) -> Float[Tensor, "n 3 height width"]:
        """Pictures of (height, width), about -1 to 1."""
        expected = self.spec.codes(extent)
        if codes.shape[1] != expected:
            raise SpecError(f"{codes.shape[1]} codes, but a picture of {extent[0]}x{extent[1]} has {expected}")
        pixels = self.decoder(self.post_quant_conv(self.entries(codes, self.spec.cells(extent))))
        return pixels[:, :, : extent[0], : extent[1]]

    def reconstruct(self, pixels: Float[Tensor, "n 3 height width"]) -> tuple[Tensor, Float[Tensor, ""]]:
        """Pictures after their codes, gradients passing straight through, and the codebook's loss.

        arXiv:2012.09841 equation 4, with a weight of 0.25 on the codebook's side.
        """
        z = self.features(pixels)
        q = self.entries(self.quantize.nearest(z.flatten(2).transpose(1, 2)), tuple(z.shape[2:]))
        loss = (q.detach() - z).square().mean() + 0.25 * (q - z.detach()).square().mean()
        out = self.decoder(self.post_quant_conv(z + (q - z).detach()))
        return out[:, :, : pixels.shape[2], : pixels.shape[3]], loss

    def errors(self, pixels: Float[Tensor, "n 3 height width"]) -> dict[str, Float[Tensor, ""]]:
        """How far pictures are from what their codes give back, and features from the codebook."""
        found, codebook = self.reconstruct(pixels)
        off = found.float() - pixels
        return {"squared": off.square().mean(), "absolute": off.abs().mean(), "codebook": codebook.float()}

    @torch.no_grad()
    def renew(self, pixels: Float[Tensor, "n 3 height width"]) -> int:
        """Move entries that no cell of these pictures is nearest to onto random ones of the cells; gives their number.

        Entries that start far from all features would never be chosen, and so never learn (random restarts of
        arXiv:2005.00341 section 3.1).
        """
        cells = self.features(pixels).flatten(2).transpose(1, 2).flatten(0, 1)
        table = self.quantize.embedding.weight
        idle = torch.ones(len(table), dtype=torch.bool, device=table.device)
        idle[self.quantize.nearest(cells)] = False
        count = int(idle.sum())
        table[idle] = cells[torch.randint(len(cells), (count,), device=cells.device)].to(table.dtype)
        return count

    @torch.inference_mode()
    def render(self, codes: Int[Tensor, " codes"], extent: Grid | None = None) -> Image.Image:
        """The picture of one medium's codes, of the trained size unless another is given."""
        pixels = self.decode(codes[None], extent or self.spec.size)[0].float().clamp(-1, 1)
        # truncated, as the original does (facebookresearch/chameleon@dbbe47f inference/image_tokenizer.py:97-110)
        return Image.fromarray(((pixels + 1) / 2 * 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy(), "RGB")
