"""Rendering of conversation templates: order, white space between words and media, what is learned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omniform.geometry import SpecError
from omniform.prompt import Chain, Join, Piece, Prompt, Turn

BASE = Prompt(
    system="S", system_turn="<{system}>", user="U{media}{text}.", header="A:", answer=" {text}!",
    media={"image": "[{media}]\n", "video": "({media})"},
)  # fmt: skip
IMAGE, SECOND, VIDEO = ("image", 0), ("image", 1), ("video", 1)


def text(prompt: Prompt, *turns: Turn, answer_next: bool = False) -> str:
    return "".join("@" if p.media is not None else p.text for p in prompt.render(turns, answer_next=answer_next))


def learned(prompt: Prompt, *turns: Turn) -> list[str]:
    return [p.text for p in prompt.render(turns) if p.learn]


def user(*content: str | tuple[str, int]) -> Turn:
    return Turn("user", content)


def answer(words: str, learn: bool = True) -> Turn:
    return Turn("assistant", (words,), learn)


def test_turns_in_order() -> None:
    assert text(BASE, user("q"), answer("a"), user("r"), answer_next=True) == "<S>Uq.A: a!Ur.A:"
    assert text(BASE, Turn("system", ("own",)), user("q")) == "<own>Uq."
    assert text(replace(BASE, system=""), user("q")) == "Uq."
    assert learned(BASE, user("q"), answer("a"), user("r"), answer("b", learn=False)) == [" ", "a", "!"]
    assert learned(replace(BASE, learn_header=True), user("q"), answer("a")) == ["A:", " ", "a", "!"]


def test_user_turns_may_be_learned_too() -> None:
    prompt = replace(BASE, learn_user=True)
    assert "".join(learned(prompt, user("q"), answer("a"))) == "Uq. a!"
    pieces = prompt.render([user(IMAGE, "q")])
    assert [p.learn for p in pieces if p.media is not None] == [True]
    assert "".join(learned(prompt, Turn("user", ("q",), learn=False), user("r"))) == "Ur."


def test_media_in_front_and_their_words_stripped() -> None:
    assert text(BASE, user("see ", IMAGE, " here")) == "<S>U[@]\nsee  here."
    assert text(BASE, user(" q ")) == "<S>U q ."
    assert text(BASE, user(IMAGE, VIDEO, "q")) == "<S>U[@]\n(@)q."
    assert text(BASE, user(IMAGE, " ")) == "<S>U[@]."  # media that end the turn bring no white space
    assert text(replace(BASE, user="{media}"), user(IMAGE, "dropped")) == "<S>[@]\n"


def test_the_first_user_turn_may_hold_the_system_text() -> None:
    prompt = replace(BASE, first_user="1{system}{text}.")
    assert text(prompt, user("q"), answer("a"), user("r")) == "1<S>q.A: a!Ur."
    assert text(replace(prompt, system=""), user("q")) == "1q."
    assert text(replace(BASE, first_user="1{text}"), user("q"), user("r")) == "<S>1qUr."


def test_the_last_answer_and_the_tail() -> None:
    prompt = replace(BASE, last_answer=" {text}$", tail="~")
    assert text(prompt, user("q"), answer("a"), user("r"), answer("b")) == "<S>Uq.A: a!~Ur.A: b$~"
    assert text(prompt, user("q"), answer("a"), answer_next=True) == "<S>Uq.A: a!~A:"
    assert learned(prompt, user("q"), answer("a"), user("r"), answer("b")) == [" ", "a", "!", " ", "b", "$"]


def test_a_sign_of_user_turns_is_learned_and_words_that_look_like_it_are_not() -> None:
    prompt = replace(BASE, user="##U{content}.", user_learned="##")
    assert text(prompt, user("a##b")) == "<S>##Ua##b."
    assert learned(prompt, user("a##b"), answer("c"), user("d")) == ["##", " ", "c", "!", "##"]


@pytest.mark.parametrize(
    ("join", "content", "wanted"),
    [
        (Join(), ("a", IMAGE, "b"), "a@b"),
        (Join(lead="\n"), (IMAGE, "b"), "@\nb"),
        (Join(lead="\n"), (IMAGE, SECOND, "b", IMAGE, "c"), "@@\nb@c"),
        (Join(lead="\n"), (IMAGE, " b"), "@ b"),
        (Join(lead="\n"), (IMAGE,), "@"),
        (Join(lead="\n"), ("", IMAGE, "b"), "@\nb"),
        (Join(lead="\n"), ("a", IMAGE, "b"), "a@b"),
        (Join(lead="\n", lone_first=True), ("a ", IMAGE, " b "), "@\na  b"),
        (Join(lead="\n", lone_first=True), ("a", IMAGE, "b", SECOND), "a@b@"),
        (Join(around=(" ", "\n")), ("a ", IMAGE, " b"), "a @\nb"),
        (Join(around=(" ", "\n")), (IMAGE, SECOND, "b"), "@\n @\nb"),
        (Join(around=(" ", "\n")), ("a", IMAGE), "a @"),
    ],
)
def test_words_and_media_meet(join: Join, content: tuple[str | tuple[str, int], ...], wanted: str) -> None:
    prompt = Prompt(user="{content}", header="", answer="{text}", join=join, media={"image": "{media}"})
    assert text(prompt, user(*content)) == wanted


def test_literals_are_all_the_texts_of_templates() -> None:
    prompt = replace(
        BASE, first_user="F{text}", last_answer="{text}L", tail="T", join=Join(lead="l", around=("b", "a")), stop=("Z",)
    )
    found = prompt.literals()
    assert {"S", "<", ">", "U", ".", "F", "A:", " ", "!", "L", "T", "l", "b", "a", "[", "]\n", "(", ")", "Z"} == {
        *found
    }


def test_media_of_an_answer_may_have_templates_of_their_own() -> None:
    turns = [user(IMAGE, "q"), Turn("assistant", ("a", ("image", 1)))]
    pieces = replace(BASE, answered={"image": "<{media}>"}).render(turns)
    said = "".join("@" if p.media is not None else p.text for p in pieces if p.learn)
    assert said == " a<@>!"
    plain = BASE.render(turns)
    assert "".join("@" if p.media is not None else p.text for p in plain if p.learn) == " a[@]\n!"
    with pytest.raises(SpecError, match=r"image must hold \{media\} exactly once, got 'x'"):
        replace(BASE, answered={"image": "x"})


def test_texts_are_tokenized_in_runs() -> None:
    pieces = [Piece("a"), Piece("b"), Piece("c", learn=True), Piece("d", learn=True), Piece("e")]
    runs = {name: replace(BASE, **{name: True}).together(pieces) for name in ("piecewise", "learned_apart")}
    assert ["".join(p.text for p in run) for run in runs["piecewise"]] == ["a", "b", "c", "d", "e"]
    assert ["".join(p.text for p in run) for run in runs["learned_apart"]] == ["ab", "cd", "e"]
    assert BASE.together(pieces) == [tuple(pieces)]


def test_templates_that_cannot_work() -> None:
    with pytest.raises(SpecError, match=r"answer template 'x' has no \{text\}"):
        replace(BASE, answer="x")
    with pytest.raises(SpecError, match=r"answer template 'y' has no \{text\}"):
        replace(BASE, last_answer="y")
    with pytest.raises(SpecError, match=r"image must hold \{media\} exactly once, got 'x'"):
        replace(BASE, media={"image": "x"})
    with pytest.raises(SpecError, match=r"no template for audio \(it has image, video\)"):
        text(BASE, user(("audio", 0)))


def test_the_parts_of_an_answer() -> None:
    chain = Chain(parts=(("heard", ""), ("text", "; [ta]"), ("speech", "; [ua]")))
    assert chain.read("hi; [ta] yes; [ua] x") == {"heard": "hi", "text": " yes", "speech": " x"}
    assert chain.read("hi; [ta] yes") == {"heard": "hi", "text": " yes"}
    assert chain.read("plain") == {}
    assert Chain(parts=(("said", "<-Ins->"), ("answer", "<-Res->"))).read("a<-Ins->b<-Res->c") == {
        "said": "b", "answer": "c"
    }  # fmt: skip
