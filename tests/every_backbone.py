"""Every decoder-only backbone that the library names, and one tiny twin of each kind."""

import importlib

from omniform.backbones.decoder import Decoder
from omniform.index import files

MODULES = [importlib.import_module(f"omniform.backbones.{stem}") for stem in files("backbones")]
NAMED = {name: spec for module in MODULES for name, spec in vars(module).items() if isinstance(spec, Decoder)}
TINY = {spec.shrunk("tiny").but(name=""): name for name, spec in reversed(NAMED.items())}
TINY_NAMED = {name: spec for spec, name in TINY.items()}
"""Specs that differ in more than size, by the name of the first one of the kind."""
