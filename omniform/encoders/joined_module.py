"""What modules of joined encoders share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.joined import Joined


class JoinedModule(nn.Module):
    """What each member reads -> features of each member."""

    def __init__(self, spec: Joined) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(member.build() for member in spec.members)
        self.spec: Any = spec

    def forward(self, read: tuple[Tensor, ...]) -> tuple[Features, ...]:
        return tuple(member(own) for member, own in zip(self.members, read, strict=True))

    def idle(self) -> tuple[str, ...]:
        return tuple(f"members.{i}.{prefix}" for i, member in enumerate(self.members) for prefix in member.idle())

    def layer_prefix(self) -> str:
        kind = type(self.spec).__name__
        raise ValueError(f"{kind} has the numbered layers of each member, not of its own; train it whole")
