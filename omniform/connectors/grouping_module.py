"""Module of `connectors.grouping`; parameter names are those of the released code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.connectors.grouping import Grouping

STD = 0.02


class GroupingModule(nn.Module):
    """Any number of cells -> as many rows as the last stage has groups."""

    def __init__(self, spec: Grouping, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_fc = nn.Linear(in_dim, spec.width)
        before = (0, *spec.tokens[:-1])
        stages = zip(before, spec.tokens, spec.groups, spec.depths, strict=False)
        self.layers = nn.ModuleList(
            Stage(spec, depth, tokens, groups, earlier) for earlier, tokens, groups, depth in stages
        )
        self.layers.append(Stage(spec, spec.depths[-1]))
        self.norm = nn.LayerNorm(spec.width)
        self.out_fc = nn.Linear(spec.width, out_dim)

    def forward(self, features: Features) -> Features:
        x, tokens = self.in_fc(features.values), features.values[:, :0]
        for stage in self.layers:
            x, tokens = stage(x, tokens)
        return Features(self.out_fc(self.norm(x)), (x.shape[1],))


class Stage(nn.Module):
    """Layers over cells and group tokens, then the cells' groups; without tokens layers alone."""

    def __init__(self, spec: Grouping, depth: int, tokens: int = 0, groups: int = 0, earlier: int = 0) -> None:
        super().__init__()
        width = spec.width
        self.blocks = nn.ModuleList(Layer(width, spec.heads) for _ in range(depth))
        self.tokens = tokens
        if not tokens:
            return
        start = torch.zeros(1, tokens, width) if earlier else STD * torch.randn(1, tokens, width).clamp(-2, 2)
        self.group_token = nn.Parameter(start)
        self.group_projector = (
            nn.Sequential(nn.LayerNorm(width), Mixer(earlier, width // 2, tokens)) if earlier else None
        )
        self.downsample = Gather(spec, tokens, groups)

    def forward(
        self, x: Float[Tensor, "views cells width"], earlier: Float[Tensor, "views before _width"]
    ) -> tuple[Float[Tensor, "views groups width"], Float[Tensor, "views tokens width"]]:
        if self.tokens:
            own = self.group_token.expand(len(x), -1, -1)
            x = torch.cat([x, own + self.group_projector(earlier) if self.group_projector else own], dim=1)
        for layer in self.blocks:
            x = layer(x)
        if not self.tokens:
            return x, x[:, :0]
        tokens = x[:, -self.tokens :]
        return self.downsample(x[:, : -self.tokens], tokens), tokens


class Gather(nn.Module):
    """Group tokens -> groups that saw all cells -> means of the cells assigned to each."""

    def __init__(self, spec: Grouping, tokens: int, groups: int) -> None:
        super().__init__()
        width = spec.width
        self.norm_tokens = nn.LayerNorm(width)
        self.mlp_inter = Mixer(tokens, width // 2, groups)
        self.norm_post_tokens = nn.LayerNorm(width)
        self.norm_x = nn.LayerNorm(width)
        self.pre_assign_attn = Look(width, spec.heads)
        self.assign = Assign(spec)
        self.norm_new_x = nn.LayerNorm(width)
        self.mlp_channels = Mlp(width, 4 * width, width)

    def forward(
        self, x: Float[Tensor, "views cells width"], tokens: Float[Tensor, "views tokens width"]
    ) -> Float[Tensor, "views groups width"]:
        x = self.norm_x(x)
        groups = self.norm_post_tokens(self.mlp_inter(self.norm_tokens(tokens)))
        groups = self.pre_assign_attn(groups, x)
        groups = groups + self.assign(groups, x)
        return groups + self.mlp_channels(self.norm_new_x(groups))


class Assign(nn.Module):
    """Every cell chooses among the groups; a group is the mean of what it gets, with one more that is zero."""

    def __init__(self, spec: Grouping) -> None:
        super().__init__()
        width = spec.width
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.spec = spec

    def forward(
        self, groups: Float[Tensor, "views groups width"], x: Float[Tensor, "views cells width"]
    ) -> Float[Tensor, "views groups width"]:
        asked = F.linear(groups, self.q_proj.weight)  # its bias would move a cell's likeness to all groups alike
        likeness = asked @ self.k_proj(x).transpose(1, 2) * self.spec.width**-0.5
        chosen = self.choice(likeness)
        shares = chosen / (chosen.sum(-1, keepdim=True) + 1.0)
        return self.proj(shares @ self.v_proj(x))

    def choice(self, likeness: Float[Tensor, "views groups cells"]) -> Float[Tensor, "views groups cells"]:
        """Which group each cell is assigned to."""
        if self.spec.noisy and self.training:
            likeness = likeness - torch.empty_like(likeness).exponential_().log()
        soft = likeness.softmax(1)
        if not self.spec.hard:
            return soft
        best = torch.zeros_like(soft).scatter(1, soft.argmax(1, keepdim=True), 1.0)
        return best - soft.detach() + soft


class Look(nn.Module):
    """Groups see cells, without norms before it and with one behind."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width, width)
        self.norm_post = nn.LayerNorm(width)

    def forward(
        self, groups: Float[Tensor, "views groups width"], x: Float[Tensor, "views cells width"]
    ) -> Float[Tensor, "views groups width"]:
        groups = groups + self.attn(groups, x)
        return self.norm_post(groups + self.mlp(self.norm2(groups)))


class Layer(nn.Module):
    """Pre-norm layer; one linear layer without bias gives queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width, width)

    def forward(self, x: Float[Tensor, "views cells width"]) -> Float[Tensor, "views cells width"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Float[Tensor, "views cells width"]) -> Float[Tensor, "views cells width"]:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(attend(q, k, v, self.heads))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(
        self, groups: Float[Tensor, "views groups width"], x: Float[Tensor, "views cells width"]
    ) -> Float[Tensor, "views groups width"]:
        return self.proj(attend(self.q_proj(groups), self.k_proj(x), self.v_proj(x), self.heads))


def attend(
    q: Float[Tensor, "views groups width"],
    k: Float[Tensor, "views cells width"],
    v: Float[Tensor, "views cells width"],
    heads: int,
) -> Float[Tensor, "views groups width"]:
    """Attention without a mask."""
    parts = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, hidden: int, given: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, given)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Mixer(Mlp):
    """The same over tokens, channel by channel."""

    def forward(self, x: Float[Tensor, "views tokens width"]) -> Float[Tensor, "views given width"]:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)
