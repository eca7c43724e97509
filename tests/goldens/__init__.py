"""Golden vectors recorded from the original implementations, and what computes and compares them.

`python -m tests.goldens FILE...` checks any golden files; `tests/test_goldens.py` checks those in this folder.
"""
