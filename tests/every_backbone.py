"""Every backbone that the library names, and one tiny twin of each kind."""

import importlib

from omniform.backbones.decoder import Decoder
from omniform.geometry import Positions
from omniform.index import files
from omniform.parts import Backbone

MODULES = [importlib.import_module(f"omniform.backbones.{stem}") for stem in files("backbones")]
EVERY = {name: spec for module in MODULES for name, spec in vars(module).items() if isinstance(spec, Backbone)}
NAMED = {name: spec for name, spec in EVERY.items() if isinstance(spec, Decoder)}
"""Those with attention and a cache of keys and values."""


def tiny(named):
    """Specs that differ in more than size, by the name of the first one of the kind."""
    kinds = {spec.shrunk("tiny").but(name=""): name for name, spec in reversed(named.items())}
    return {name: spec for spec, name in kinds.items()}


TINY_EVERY, TINY_NAMED = tiny(EVERY), tiny(NAMED)
STACK, TINY_STACK = ({n: s for n, s in known.items() if s.start_id is None} for known in (EVERY, TINY_EVERY))
"""Those of one stack of layers; `test_encoder_decoder` has the others."""


def rule(spec):
    """The rule for position ids that a backbone can read."""
    return Positions(media="map" if spec.position_axes > 1 else "running")
