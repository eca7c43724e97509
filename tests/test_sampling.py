"""Choosing the next token: every step against numbers worked out by hand, and against transformers' processors."""

import math

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from omniform.cli.options import generation
from omniform.inference.sampling import (
    GenerationConfig,
    MediaSampling,
    SamplingError,
    choose,
    draw,
    noise,
    penalised,
    shaped,
    top_k,
    top_p,
)

PROBS = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]])
SCORES = PROBS.log()


def random():
    return torch.Generator().manual_seed(0)


def kept(scores):
    return (scores[0] > float("-inf")).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("p", "left"),
    [(0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 3, 4]), (0.86, [0, 1, 3, 4]), (0.96, [0, 1, 2, 3, 4])],
)
def test_top_p_keeps_the_smallest_set_whose_mass_is_at_least_p(p, left):
    assert kept(top_p(SCORES, p)) == left


def test_top_p_always_keeps_the_likeliest():
    assert kept(top_p(SCORES, 1e-30)) == [1]


@pytest.mark.parametrize(("k", "left"), [(1, [1]), (2, [1, 3]), (3, [1, 3, 4]), (5, [0, 1, 2, 3, 4])])
def test_top_k_keeps_the_k_highest(k, left):
    assert kept(top_k(SCORES, k)) == left


def test_top_k_beyond_the_vocabulary_keeps_all():
    assert torch.allclose(shaped(SCORES, GenerationConfig(temperature=1, top_k=99)).softmax(-1), PROBS)


def test_temperature_sharpens():
    expected = PROBS**2 / (PROBS**2).sum()
    assert torch.allclose(shaped(SCORES, GenerationConfig(temperature=0.5)).softmax(-1), expected, atol=1e-7)


def test_the_smallest_temperatures_are_greedy():
    assert shaped(SCORES, GenerationConfig(temperature=1e-37)).softmax(-1).tolist() == [[0, 1, 0, 0, 0]]


def test_penalty_divides_positive_and_multiplies_negative_logits():
    logits = torch.tensor([[2.0, -2.0, 4.0, -4.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalised(logits, seen, 2.0).tolist() == [[1.0, -4.0, 4.0, -4.0]]


def test_draw_takes_the_shortest_wait_at_the_rates_of_the_probabilities():
    # waits 1 / p would all end at once; the third is made shorter
    assert draw(SCORES, PROBS * torch.tensor([1, 1, 0.9, 1, 1])).tolist() == [2]


def test_draw_never_takes_what_has_no_probability():
    scores = torch.tensor([[0.0, float("-inf")]]).expand(1000, 2)
    assert draw(scores, noise([random()] * 1000, 2)).sum() == 0


def test_noise_is_exponential():
    waits = noise([random()], 100000)
    assert waits.mean().item() == pytest.approx(1, abs=0.02)
    assert (waits > 1).float().mean().item() == pytest.approx(math.exp(-1), abs=0.01)


def test_rounding_at_the_rim_of_top_p_does_not_change_the_choice():
    config = GenerationConfig(temperature=1, top_p=0.7, seed=1)  # the mass of tokens 1 and 3 is 0.7
    choices = []
    for scores in (SCORES + torch.tensor([0, 1e-6, 0, 0, 0]), SCORES - torch.tensor([0, 1e-6, 0, 0, 0])):
        choices.append(choose(scores.expand(1000, 5), config, [config.random("")] * 1000)[0])
    assert kept(shaped(SCORES + torch.tensor([0, 1e-6, 0, 0, 0]), config)) == [1, 3]
    assert kept(shaped(SCORES - torch.tensor([0, 1e-6, 0, 0, 0]), config)) == [1, 3, 4]
    same = choices[0] == choices[1]
    assert (choices[1][~same] == 4).all()  # only where the token at the rim itself is chosen


def test_sampled_frequencies_are_the_probabilities():
    config = GenerationConfig(temperature=0.7, top_p=0.9, seed=3)
    expected = shaped(SCORES, config).softmax(-1)[0]
    count = 20000
    tokens, _ = choose(SCORES.expand(count, 5), config, [config.random("a document")] * count)
    frequencies = torch.bincount(tokens, minlength=5) / count
    assert expected[2] == 0 and frequencies[2] == 0
    # three standard deviations of a frequency are at most 3 * sqrt(0.25 / 20000) = 0.0106
    assert (frequencies - expected).abs().max() < 0.0106


def test_greedy_takes_the_likeliest_and_gives_its_log_probability():
    tokens, log_probs = choose(SCORES + 3, GenerationConfig(), [random()])
    assert tokens.tolist() == [1]
    assert log_probs.item() == pytest.approx(math.log(0.4), abs=1e-6)


def test_log_probabilities_are_the_models_own():
    config = GenerationConfig(temperature=0.1, top_k=1, repetition_penalty=2.0)
    tokens, log_probs = choose(SCORES, config, [random()], seen=torch.zeros(1, 5, dtype=torch.bool))
    assert tokens.tolist() == [1]
    assert log_probs.item() == pytest.approx(math.log(0.4), abs=1e-6)


def test_banned_ids_are_never_chosen():
    assert choose(SCORES, GenerationConfig(), [random()], banned=[1])[0].tolist() == [3]
    tokens, _ = choose(SCORES.expand(500, 5), GenerationConfig(temperature=2), [random()] * 500, banned=[1, 3])
    assert set(tokens.tolist()) == {0, 2, 4}


def test_a_row_does_not_depend_on_the_other_rows():
    torch.manual_seed(0)
    logits, config = torch.randn(6, 50) * 3, GenerationConfig(temperature=1.3, top_k=30, top_p=0.8, seed=5)
    together, _ = choose(logits, config, [config.random(str(i)) for i in range(6)])
    alone = [choose(logits[i : i + 1], config, [config.random(str(i))])[0].item() for i in range(6)]
    assert together.tolist() == alone


def test_random_numbers_are_those_of_seed_and_document():
    config = GenerationConfig(seed=1)
    first = noise([config.random("a")], 9)
    assert torch.equal(noise([config.random("a")], 9), first)
    assert not torch.equal(noise([config.random("b")], 9), first)
    assert not torch.equal(noise([GenerationConfig(seed=2).random("a")], 9), first)


def test_steps_are_those_of_transformers():
    torch.manual_seed(0)
    logits, words = torch.randn(3, 40) * 4, torch.randint(0, 40, (3, 7))
    config = GenerationConfig(temperature=0.8, top_k=12, top_p=0.9, repetition_penalty=1.3)
    theirs = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.3),
            MinNewTokensLengthLogitsProcessor(7, 2, [4, 5], device="cpu"),
            TemperatureLogitsWarper(0.8),
            TopKLogitsWarper(12),
            TopPLogitsWarper(0.9),
        ]
    )
    expected = theirs(words, logits.clone()).softmax(-1)
    seen = torch.zeros(3, 40, dtype=torch.bool).scatter(1, words, True)
    scores = penalised(logits, seen, 1.3).index_fill(1, torch.tensor([4, 5]), float("-inf"))
    assert torch.allclose(shaped(scores, config).softmax(-1), expected, atol=1e-7)
    assert ((expected > 0).sum(-1) < 12).any()  # top-p had something to do


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0, but must be at least 1"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens is 9, but must be 0 to max_new_tokens"),
        ({"temperature": -1.0}, "temperature is -1.0, but must be 0 (always the likeliest token) or more"),
        ({"top_k": -1}, "top_k is -1, but must be 0 (all tokens) or more"),
        ({"top_p": 0.0}, "top_p is 0.0, but must be above 0 and at most 1 (all tokens)"),
        ({"top_p": 1.1}, "top_p is 1.1, but must be above 0 and at most 1 (all tokens)"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, but must be above 0; 1 is no penalty"),
        ({"stop": ("x", "")}, "stop is ('x', ''), but must be strings of at least one character"),
    ],
)
def test_impossible_numbers_are_refused(wrong, message):
    with pytest.raises(SamplingError) as error:
        GenerationConfig(**wrong)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0, but must be 0 (always the likeliest token) or more"),
        ({"guidance": (math.nan,)}, "guidance is (nan,), but must be numbers"),
        ({"steps": -1}, "steps is -1, but must be 0 (the published number) or more"),
    ],
)
def test_impossible_numbers_of_a_medium_are_refused(wrong, message):
    with pytest.raises(SamplingError) as error:
        MediaSampling(**wrong)
    assert str(error.value) == message


def test_the_numbers_of_text_stand_beside_those_of_media():
    with pytest.raises(SamplingError, match=r"^media is .*, but must be of other modalities than text; its numbers"):
        GenerationConfig(media={"text": MediaSampling()})


# --- as options of a command -------------------------------------------------------------------------------------


def test_options_say_how_words_and_media_are_chosen():
    made = generation(
        ["0.7", "image=1.5"], ["50"], ["text=0.9", "image=0.5"], ["image=1.2,3", "audio=2"], ["audio=25"], seed=4
    )
    words = {"temperature": 0.7, "top_k": 50, "top_p": 0.9}
    image = MediaSampling(temperature=1.5, top_k=50, top_p=0.5, guidance=(1.2, 3.0))
    audio = MediaSampling(**words, guidance=(2.0,), steps=25)
    assert made == GenerationConfig(**words, seed=4, media={"image": image, "audio": audio})
    assert generation(None, None, None, None, None) == GenerationConfig()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((["warm"], [], [], [], []), "--temperature warm: give it as 0.7 or image=1"),
        ((["image="], [], [], [], []), "--temperature image=: give it as 0.7 or image=1"),
        (([], ["=3"], [], [], []), "--top-k =3: give it as 50 or image=2000"),
        (([], ["0.5"], [], [], []), "--top-k 0.5: give it as 50 or image=2000"),
        (([], [], [], ["3"], []), "--guidance 3: give it as image=3"),
        (([], [], [], ["image=3,"], []), "--guidance image=3,: give it as image=3"),
        (([], [], [], [], ["image=many"]), "--steps image=many: give it as image=25"),
        (([], [], [], [], ["image=-1"]), "image: steps is -1, but must be 0 (the published number) or more"),
    ],
)
def test_options_that_are_not_of_their_form_are_refused(options, message):
    with pytest.raises(SamplingError) as error:
        generation(*options)
    assert str(error.value) == message
