"""One file for each system: how its goldens are computed here. Files that begin with `_` are shared."""
