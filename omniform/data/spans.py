"""Spans of codes in the ids of a tokenizer."""

from __future__ import annotations

from omniform.data.tokenizer import Tokenizer
from omniform.grammar import SpanIds
from omniform.spec import Discrete, System


def span_ids(system: System, modality: str, tokenizer: Tokenizer) -> SpanIds:
    """A modality's span in the ids of a tokenizer.

    Raises:
        LookupError: the vocabulary lacks one of its tokens.
    """
    entry = system.coded(modality)
    codec, span = entry.codec, entry.span
    *codes, begin, end = tokenizer.ids_of(list(span.names(codec.codebook * codec.books)))
    least, most = span.least * codec.books, span.most * codec.books
    if codec.counted and isinstance(entry, Discrete) and entry.views.one_size:
        least = most = codec.codes(codec.size)
    return SpanIds(modality, begin, end, tuple(codes), codec.codebook, least, most, modality in system.outputs)
