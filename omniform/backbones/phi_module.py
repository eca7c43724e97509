"""Module of `backbones.phi`."""

from __future__ import annotations

from omniform.backbones.decoder_module import DecoderModule
from omniform.backbones.phi import Phi


class PhiModule(DecoderModule):
    """Phi, with or without the bias of the output head that transformers always builds."""

    def __init__(self, spec: Phi) -> None:
        super().__init__(spec)
        if not spec.head_bias:
            self.lm.lm_head.register_parameter("bias", None)
