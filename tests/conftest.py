"""Shapes and types of everything in the package are checked while tests run; one thread, so that numbers repeat."""

from __future__ import annotations

import torch
from jaxtyping import install_import_hook

install_import_hook("omniform", "shapes.checked")
torch.set_num_threads(1)
