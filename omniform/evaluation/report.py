"""`report.html`: one self-contained page that says how good a run is, shows its answers, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files

from omniform.evaluation.chart import Curve, loss_plot
from omniform.evaluation.evaluation import Evaluation, Prediction, Tally

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the page shows.

    Attributes:
        subtitle: one line under the title, such as the data it was tested on.
        curves: loss of each stage, in order.
        pictures: picture, animation or sound of each prediction that is shown, as a data URI, by the prediction's
            number; empty where it has none.
        said: media of each answer that is shown, as data URIs, by the prediction's number.
        facts: group -> name -> value.
        texts: name -> longer text shown folded (the resolved recipe).
    """

    title: str
    subtitle: str
    evaluation: Evaluation
    pictures: Mapping[int, str] = field(default_factory=dict)
    said: Mapping[int, Sequence[str]] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def html(self) -> str:
        """The whole page."""
        found = self.evaluation
        blocks = [_headline(self), _types(found), curve_block(self.curves), _answers(self)]
        return page(self.title, [*blocks, facts_block(self.facts, self.texts)])


def page(title: str, blocks: Sequence[str]) -> str:
    """A page of blocks of HTML, those that are empty left out."""
    css = (files("omniform.evaluation") / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head>\n<body><main>\n"
        + "\n".join(b for b in blocks if b)
        + "\n</main></body></html>\n"
    )


def chosen(evaluation: Evaluation, count: int = 12, most_wrong: int = 4) -> list[int]:
    """Numbers of the predictions to show: some wrong ones first, then right ones, both spread over question types."""
    wrong = _spread(evaluation.predictions, correct=False)[:most_wrong]
    right = _spread(evaluation.predictions, correct=True)[: count - len(wrong)]
    more = _spread(evaluation.predictions, correct=False)[len(wrong) : count - len(right)]
    return [*wrong, *more, *right]


def _spread(predictions: Sequence[Prediction], *, correct: bool) -> list[int]:
    """Numbers of right or wrong predictions, one type after the other in turn, evenly over the data set."""
    kinds: dict[str, list[int]] = {}
    for number, prediction in enumerate(predictions):
        if prediction.correct == correct:
            kinds.setdefault(prediction.type, []).append(number)
    turns = []
    for place, numbers in enumerate(kinds.values()):
        spread = [numbers[int((i * GOLDEN + place / len(kinds)) % 1 * len(numbers))] for i in range(len(numbers))]
        turns += [(turn, place, number) for turn, number in enumerate(dict.fromkeys([*spread, *numbers]))]
    return [number for _, _, number in sorted(turns)]


def percent(share: float) -> str:
    """A share with one decimal; never rounded up to 100 %."""
    value = round(100 * share, 1)
    return f"{min(value, 99.9) if share < 1 else value:.1f} %"


def _headline(report: Report) -> str:
    tally, metric = report.evaluation.overall, _words(report.evaluation.metric)
    low, high = tally.interval
    if tally.score.errors:
        first = f"{metric}; {tally.right:,} of {tally.count:,} answers without an error"
        second = f"95 % interval of their share {percent(low)} to {percent(high)}"
    else:
        first = f"{tally.right:,} of {tally.count:,} questions right ({metric})"
        second = (
            f"95 % interval {percent(low)} to {percent(high)}; always saying the commonest answer: "
            f"{percent(tally.commonest)}"
        )
    return (
        f'<header><h1>{escape(report.title)}</h1><p class="quiet">{escape(report.subtitle)}</p></header>\n'
        f'<section class="headline"><strong class="number">{percent(tally.score.ratio)}</strong>'
        f'<div><p>{escape(first)}</p><p class="quiet small">{escape(second)}</p></div></section>'
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _types(evaluation: Evaluation) -> str:
    rows = "".join(_bar(kind, tally) for kind, tally in evaluation.by_type.items())
    note = '<span class="key"></span>always saying the commonest answer of that type'
    if evaluation.overall.score.errors:
        note = "a full bar is one error a word; beside it, answers without an error"
    return (
        f'<section><h2>By type of question</h2><div class="bars">{rows}</div>'
        f'<p class="quiet small">{note}</p></section>'
    )


def _bar(kind: str, tally: Tally) -> str:
    share, counts = tally.score.ratio, f"{tally.right:,} / {tally.count:,}"
    mark = "" if tally.score.errors else f'<b style="left:{100 * tally.commonest:.2f}%"></b>'
    return (
        f'<span class="label">{escape(kind) or "all"}</span>'
        f'<span class="value number">{percent(share)} <span class="quiet small">{counts}</span>'
        f'</span><span class="track" role="presentation"><i style="width:{100 * min(share, 1.0):.2f}%"></i>'
        f"{mark}</span>"
    )


def curve_block(curves: Sequence[Curve]) -> str:
    """The loss of every stage."""
    return f"<section><h2>Loss while learning</h2>{loss_plot(curves)}</section>" if curves else ""


def _answers(report: Report) -> str:
    if not report.pictures:
        return ""
    predictions = report.evaluation.predictions
    shown = report.pictures.items()
    cards = "".join(_card(predictions[number], uri, report.said.get(number, ())) for number, uri in shown)
    return f'<section><h2>Some answers</h2><div class="grid">{cards}</div></section>'


def _card(prediction: Prediction, picture: str, said: Sequence[str]) -> str:
    kind, mark = ("right", "✓ right") if prediction.correct else ("wrong", "✗ wrong")
    truth = "" if prediction.correct else f'<p class="quiet">truth: {escape(prediction.answer)}</p>'
    return (
        f'<figure class="{kind}">{_medium(picture)}<figcaption>'
        f'<p class="question">{escape(prediction.question)}</p>{"".join(map(_medium, said))}'
        f"<p><strong>{escape(prediction.prediction) or '(nothing)'}</strong></p>{truth}"
        f'<p class="mark small">{mark}</p></figcaption></figure>'
    )


def _medium(uri: str) -> str:
    if uri.startswith("data:audio/"):
        return f'<audio controls preload="none" src="{uri}"></audio>'
    return f'<img src="{uri}" alt="" loading="lazy">' if uri else ""


def facts_block(facts: Mapping[str, Mapping[str, str]], texts: Mapping[str, str]) -> str:
    """Groups of named values, and longer texts folded."""
    groups = "".join(f"<h3>{escape(name)}</h3><dl>{_list(values)}</dl>" for name, values in facts.items())
    folded = "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>" for name, text in texts.items()
    )
    return f"<section><h2>The run</h2>{groups}{folded}</section>" if groups or folded else ""


def _list(values: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(k)}</dt><dd class='number'>{escape(v)}</dd>" for k, v in values.items())
