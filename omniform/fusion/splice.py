"""Features take positions of their own in the sequence (LLaVA, arXiv:2304.08485 section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.parts import Fusion


@dataclass(frozen=True, kw_only=True)
class Splice(Fusion):
    """Rows replace the embeddings at their placeholder positions."""

    implementation = "omniform.fusion.splice_module:SpliceModule"
