"""Measured comparisons with a peer in the same process. Each prints ratios and peak memory; `RESULTS.md` keeps them."""
