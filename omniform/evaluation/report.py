"""`report.html`: one self-contained page that says how good a run is, shows its answers, and how it came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files

from omniform.evaluation.chart import Curve, loss_plot
from omniform.evaluation.evaluation import Evaluation, Prediction, Tally

GOLDEN = (5**0.5 - 1) / 2
MARK = "always saying the commonest answer of that type"


@dataclass(frozen=True, kw_only=True)
class Section:
    """What the page shows of one evaluation.

    Attributes:
        name: empty for the only one of a page.
        subtitle: one line, such as the data it was tested on.
        pictures: picture, animation or sound of each prediction that is shown, as a data URI, by the prediction's
            number; empty where it has none.
        said: media of each answer that is shown, as data URIs, by the prediction's number.
    """

    evaluation: Evaluation
    name: str = ""
    subtitle: str = ""
    pictures: Mapping[int, str] = field(default_factory=dict)
    said: Mapping[int, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the page shows.

    Attributes:
        curves: loss of each stage, in order.
        facts: group -> name -> value.
        texts: name -> longer text shown folded (the resolved recipe).
    """

    title: str
    sections: Sequence[Section]
    curves: Sequence[Curve] = ()
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def html(self) -> str:
        """The whole page: how good the run is, how it learned, what it answers."""
        figures = [block(s) for s in self.sections for block in (_headline, _types)]
        answers = [_answers(s) for s in self.sections]
        header = f"<header><h1>{escape(self.title)}</h1></header>"
        return page(
            self.title,
            [header, *figures, curve_block(self.curves), *answers, facts_block(self.facts, self.texts)],
        )


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


def _headline(section: Section) -> str:
    found = section.evaluation
    name = f"<h2>{escape(section.name)}</h2>" if section.name else ""
    first, *more = (*_sentences(found), section.subtitle)
    quiet = "".join(f'<p class="quiet small">{escape(line)}</p>' for line in more if line)
    return (
        f'<section class="headline">{name}<strong class="number">{percent(found.overall.score.ratio)}</strong>'
        f"<div><p>{escape(first)}</p>{quiet}</div></section>"
    )


def _sentences(found: Evaluation) -> Iterator[str]:
    """What is counted, how sure it is, and how good the judge is."""
    tally, metric = found.overall, _words(found.metric)
    low, high = tally.interval
    if tally.score.errors:
        yield f"{metric}; {tally.right:,} of {tally.count:,} answers without an error"
        yield f"95 % interval of their share {percent(low)} to {percent(high)}"
    else:
        yield f"{tally.right:,} of {tally.count:,} questions right ({metric})"
        interval = f"95 % interval {percent(low)} to {percent(high)}"
        yield f"{interval}; always saying the commonest answer: {percent(tally.commonest)}"
    if found.real:
        real = found.real.overall
        share, counts = percent(real.score.ratio), f"{real.right:,} of {real.count:,} right"
        yield f"judged by a model; of the true media it makes {share} ({counts})"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _types(section: Section) -> str:
    found = section.evaluation
    marks = {kind: _mark(found, kind) for kind in found.by_type}
    rows = "".join(_bar(kind, tally, marks[kind]) for kind, tally in found.by_type.items())
    note = "a full bar is one error a word; beside it, answers without an error" if found.overall.score.errors else ""
    if any(mark is not None for mark in marks.values()):
        meaning = "the judge on true media of that type" if found.real else MARK
        note = f'<span class="key"></span>{meaning}{note and f"; {note}"}'
    title = f"{escape(section.name)}, by type of question" if section.name else "By type of question"
    return f'<section><h2>{title}</h2><div class="bars">{rows}</div><p class="quiet small">{note}</p></section>'


def _mark(found: Evaluation, kind: str) -> float | None:
    """Where the bar of a type of question has its mark."""
    if found.real:
        return found.real.by_type[kind].score.ratio
    tally = found.by_type[kind]
    return None if tally.score.errors else tally.commonest


def _bar(kind: str, tally: Tally, marked: float | None) -> str:
    share, counts = tally.score.ratio, f"{tally.right:,} / {tally.count:,}"
    mark = "" if marked is None else f'<b style="left:{100 * min(marked, 1.0):.2f}%"></b>'
    return (
        f'<span class="label">{escape(kind) or "all"}</span>'
        f'<span class="value number">{percent(share)} <span class="quiet small">{counts}</span>'
        f'</span><span class="track" role="presentation"><i style="width:{100 * min(share, 1.0):.2f}%"></i>'
        f"{mark}</span>"
    )


def curve_block(curves: Sequence[Curve]) -> str:
    """The loss of every stage."""
    return f"<section><h2>Loss while learning</h2>{loss_plot(curves)}</section>" if curves else ""


def _answers(section: Section) -> str:
    if not section.pictures:
        return ""
    predictions = section.evaluation.predictions
    shown = section.pictures.items()
    cards = "".join(_card(predictions[number], uri, section.said.get(number, ())) for number, uri in shown)
    title = f"{escape(section.name)}, some answers" if section.name else "Some answers"
    return f'<section><h2>{title}</h2><div class="grid">{cards}</div></section>'


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
