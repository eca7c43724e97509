"""Spans of media: whatever is chosen among the allowed tokens, every span comes out whole."""

from __future__ import annotations

import random

import pytest

from omniform.grammar import Allowed, CodeSpan, Grammar, SpanIds, Walk

PICTURE = SpanIds("image", 10, 11, tuple(range(20, 28)), 8, 4, 4)
SOUND = SpanIds("audio", 12, 13, tuple(range(30, 36)), 3, 2, 8)
READ_ONLY = SpanIds("video", 14, 15, (40, 41), 2, 1, 1, written=False)
GRAMMAR = Grammar.of([PICTURE, SOUND, READ_ONLY], frozenset({2}), reserved=[1, 2])
VOCAB = 50


def test_names_of_codes() -> None:
    plain = CodeSpan(token="<{code}>", begin="<sosp>", end="<eosp>")
    letters = CodeSpan(token="IMGIMG{code}Z", digits="ABCDEFGHIJ", begin="b", end="e")
    assert list(plain.names(2)) == ["<0>", "<1>", "<sosp>", "<eosp>"]
    assert [letters.name(n) for n in (0, 9, 10, 8191)] == ["IMGIMGAZ", "IMGIMGJZ", "IMGIMGBAZ", "IMGIMGIBJBZ"]


def test_books_take_turns() -> None:
    assert SOUND.books == 2
    assert SOUND.ids_of([0, 0, 2, 1]) == [30, 33, 32, 34]


def test_text_uses_no_token_of_a_span_and_no_reserved_one() -> None:
    words = {*range(VOCAB)} - GRAMMAR.wordless
    assert words == set(range(VOCAB)) - {1, 2, 10, 11, 12, 13, 14, 15, *range(20, 28), *range(30, 36), 40, 41}
    assert set(Allowed(ends=True).tokens(GRAMMAR)) == {2}


def said(seed: int, length: int, **options: object) -> tuple[list[int], list[tuple[str, list[int]]], Walk]:
    """An answer of random allowed tokens, begins liked best."""
    chance, walk = random.Random(seed), Walk(GRAMMAR, **options)  # type: ignore[arg-type]
    tokens: list[int] = []
    media = []
    while len(tokens) < length and not walk.over:
        allowed = walk.allowed(length - len(tokens))
        ids = sorted({*allowed.tokens(GRAMMAR)} | ({*range(VOCAB)} - GRAMMAR.wordless if allowed.words else set()))
        assert ids
        likely = [i for i in ids if i in (10, 12)] or ids
        tokens.append(chance.choice(likely if chance.random() < 0.5 else ids))
        if walk.open < 0 and tokens[-1] == 2:
            break
        done = walk.take(tokens[-1])
        media += [done] if done else []
    return tokens, media, walk


def check(tokens: list[int], media: list[tuple[str, list[int]]]) -> None:
    """Reads an answer without the walk: every span is whole, and its codes are those that were told."""
    place, found = 0, []
    while place < len(tokens):
        span = {10: PICTURE, 12: SOUND}.get(tokens[place])
        place += 1
        if span is None:
            assert tokens[place - 1] not in GRAMMAR.never
            continue
        stop = tokens.index(span.end, place)
        ids = tokens[place:stop]
        assert span.least <= len(ids) <= span.most and len(ids) % span.books == 0
        assert all(i in span.book(n % span.books) for n, i in enumerate(ids))
        found.append((span.modality, [span.codes.index(i) % span.size for i in ids]))
        place = stop + 1
    assert found == media


def test_500_random_answers_are_well_formed_at_every_length() -> None:
    spoken = set()
    for seed in range(500):
        tokens, media, walk = said(seed, 1 + seed % 40)
        assert walk.open < 0
        check(tokens, media)
        spoken |= {modality for modality, _ in media}
    assert spoken == {"image", "audio"}


def test_modalities_are_as_asked_for() -> None:
    for seed in range(100):
        tokens, media, walk = said(seed, 12, wanted=("image",))
        assert [m for m, _ in media] == ["image"] and len(tokens) == 6 and walk.over
        tokens, media, _ = said(seed, 20, wanted=("text", "audio"))
        assert {m for m, _ in media} <= {"audio"}
        tokens, media, _ = said(seed, 20, first="audio")
        assert tokens[0] == 12 and media[0][0] == "audio"
        tokens, _, _ = said(seed, 20, first="text")
        assert tokens[0] not in (10, 12)


@pytest.mark.parametrize(("options", "needs"), [({}, 1), ({"first": "image"}, 6), ({"wanted": ("audio",)}, 4)])
def test_what_must_come_needs_room(options: dict[str, object], needs: int) -> None:
    assert Walk(GRAMMAR, **options).needs() == needs  # type: ignore[arg-type]


def test_a_medium_that_has_no_room_does_not_begin() -> None:
    walk = Walk(GRAMMAR)
    assert walk.allowed(6).begins == (0, 1)
    assert walk.allowed(5).begins == (1,)
    assert walk.allowed(3).begins == ()
