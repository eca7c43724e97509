"""Text comes out in whole characters, as early as it can, and never a part of what ends it."""

import random

import pytest

from omniform.inference.writer import TextWriter


class Bytes:
    """Every byte is a token; ids above are special and have no text."""

    bos_id = eos_id = None
    size = 300

    def encode(self, text):
        return list(text.encode()), []

    def decode(self, ids):
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def id_of(self, token):
        raise LookupError(token)


class Words(Bytes):
    """As SentencePiece: words begin with a space, which the first of a text loses."""

    words = ("▁the", "▁red", "circle", "▁", "é")

    def decode(self, ids):
        return "".join(self.words[i] for i in ids).replace("▁", " ").removeprefix(" ")


def written(ids, **options):
    """Pieces that each further id brings, and what closing brings."""
    writer = TextWriter(Bytes(), **options)
    return [writer.write([i]) for i in ids], writer.close(), writer.stopped


def test_characters_come_whole():
    pieces, rest, _ = written("aé漢🙂b".encode())
    assert pieces == ["a", "", "é", "", "", "漢", "", "", "", "🙂", "b"]
    assert rest == ""


def test_what_is_no_character_does_not_hold_up_the_rest():
    pieces, rest, _ = written([65, 0xFF, 66, 0xC3])
    assert pieces == ["A", "", "\ufffdB", ""]
    assert rest == "\ufffd"


def test_special_tokens_are_not_written():
    assert written([65, 299, 66])[0] == ["A", "", "B"]


def test_the_first_word_alone_loses_its_space():
    writer = TextWriter(Words())
    assert [writer.write([i]) for i in (0, 1, 2, 3, 4)] == ["the", " red", "circle", " ", "é"]


@pytest.mark.parametrize(
    ("text", "pieces", "rest", "stopped"),
    [
        ("ab##cd", ["a", "b", "", "", "##c", "d"], "", False),
        ("ab###cd", ["a", "b", "", "", "", "", ""], "", True),
        ("a####", ["a", "", "", "", ""], "", True),
        ("ab##", ["a", "b", "", ""], "##", False),
    ],
)
def test_a_stop_string_is_held_back_while_it_may_come(text, pieces, rest, stopped):
    assert written(text.encode(), stops=("###",)) == (pieces, rest, stopped)


def test_of_several_stop_strings_the_earliest_ends():
    pieces, rest, stopped = written(b"one END two\n", stops=("\n", " END", "END t"))
    assert ("".join(pieces) + rest, stopped) == ("one", True)


@pytest.mark.parametrize(
    ("text", "out"), [(" yes", "yes"), ("yes", "yes"), ("  yes", " yes"), (" ", ""), ("", ""), ("\n yes", "\n yes")]
)
def test_the_opening_of_the_prompt_is_left_out(text, out):
    pieces, rest, _ = written(text.encode(), opening=" ")
    assert "".join(pieces) + rest == out


def test_an_opening_that_does_not_come_in_full_is_text():
    pieces, rest, _ = written(b"<an>x", opening="<answer>")
    assert ("".join(pieces), rest, pieces[:3]) == ("<an>x", "", ["", "", ""])
    assert written(b"<ans", opening="<answer>")[1] == "<ans"


@pytest.mark.parametrize("seed", range(30))
def test_pieces_add_up_however_the_ids_come(seed):
    dice = random.Random(seed)
    text = "".join(dice.choices("ab#é漢🙂 \n", k=60))
    stops = tuple("".join(dice.choices("ab#é \n", k=dice.randint(2, 4))) for _ in range(3))
    ids = list(text.encode())
    writer, out = TextWriter(Bytes(), stops), ""
    while ids and not writer.stopped:
        count = dice.randint(1, 4)
        out += writer.write(ids[:count])
        ids = ids[count:]
        assert not any(stop in out for stop in stops)
    out += writer.close()
    end = min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))
    assert out == text[:end]
