"""The six stamps hold for every system, and each is shown to catch what it is there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omniform import index
from omniform.data.document import Text
from omniform.inference.engine import Engine
from omniform.inference.rows import Answer
from omniform.spec import System
from omniform.verify import build, generate, layout, parity, row, train
from omniform.verify.check import Context, Failed, verify
from omniform.verify.stamps import STAMPS

SYSTEMS = index.names("systems")
HERE = Context()


@pytest.mark.parametrize("slug", SYSTEMS)
def test_build(slug: str) -> None:
    assert "within 1 % of published" in build.check(index.system(slug), HERE)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_layout(slug: str) -> None:
    assert "none missing, none left over" in layout.check(index.system(slug), HERE)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_train(slug: str) -> None:
    system = index.system(slug)
    said = train.check(system, HERE)
    assert [part.split(":")[0] for part in said.split("; ")] == [stage.name for stage in system.stages]


@pytest.mark.parametrize("slug", SYSTEMS)
def test_generate(slug: str) -> None:
    longest = max(len(output.signal) for output in index.system(slug).outputs.values())
    assert generate.check(index.system(slug), HERE).startswith(f"6 answers of {max(12, longest + 2)} tokens")


def test_parity_counts_what_it_compared() -> None:
    said = parity.check(index.system("llava-1.5"), HERE)
    assert said.startswith("13 results in 3 files, largest relative error ")
    assert float(said.rpartition(" ")[2]) <= 1e-4


# --- what each stamp catches -------------------------------------------------------------------------------------


def fails(module: Any, system: System, words: str, context: Context = HERE) -> None:
    with pytest.raises(Failed, match=words):
        module.check(system, context)


def test_build_catches_wrong_counts() -> None:
    system = index.system("llava-1.5")
    fails(build, system.but({"published_params.backbone": 6_600_000_000}), r"backbone has 6,738,415,616 .* \(\+2\.1%\)")
    fails(build, system.but({"published_params": {"image.decoder": 1}}), r"names 'image\.decoder', but the parts are")
    fails(build, system.but({"published_params": {}}), "published_params is empty")


def test_build_catches_a_variant_that_states_its_own_counts() -> None:
    system = index.system("llava-1.5")
    wrong = {**system.variants["13b"], "published_params.backbone": 6738415616}
    fails(build, system.but({"variants": {"13b": wrong}}), r"llava-1\.5:13b: backbone has 13,015,864,320")


def test_layout_catches_lost_and_changed_tensors() -> None:
    system = index.system("llava-1.5").but({"variants": {}})
    fails(
        layout,
        system.but({"backbone.vocab": 32001}),
        r"2 of another shape \(model\.embed_tokens\.weight \(32000, 4096\)",
    )
    fails(layout, system.but({"inputs.image.connector.depth": 3}), r"2 missing \(model\.mm_projector\.4\.weight")
    fails(layout, system.but({"inputs.image.connector.depth": 1}), r"2 left over \(model\.mm_projector\.2\.weight")


def test_layout_and_parity_need_the_golden_files(tmp_path: Path) -> None:
    for module in (layout, parity):
        fails(module, index.system("llava-1.5"), "no golden files here", Context(tmp_path))
    fails(layout, index.system("llava-1.5").but(slug="new"), "no list of the released keys of new")
    fails(parity, index.system("llava-1.5").but(slug="new"), "no golden files of new")


def test_parity_catches_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from omniform.connectors.mlp_module import MlpModule

    plain = MlpModule.forward
    monkeypatch.setattr(
        MlpModule, "forward", lambda self, features: type(features)(plain(self, features).values * 1.01, features.grid)
    )
    fails(parity, index.system("llava-1.5"), r"of 13 results differ: llava-1\.5__batch_padded")


def test_train_catches_a_part_that_should_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "taught", lambda *_: {"inputs.image.connector.layers.0.weight"})
    fails(train, index.system("llava-1.5"), r"3 parameters \(inputs\.image\.connector\.layers\.0\.bias.* moved")


def test_train_catches_a_loss_that_does_not_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter((2.0, 27.0))
    monkeypatch.setattr(train, "loss_of", lambda *_: next(found))
    fails(train, index.system("llava-1.5"), r"stage pretrain: the loss went from 2\.000 to 27\.000 in 20 steps")


def altered(monkeypatch: pytest.MonkeyPatch, change: Callable[[Answer, int], Answer]) -> None:
    """Every answer is changed, with the number of documents that were asked about together."""
    plain = Engine.generate

    def generate_(self: Engine, documents: Any, config: Any, progress: Any = None) -> list[Answer]:
        return [change(answer, len(documents)) for answer in plain(self, documents, config)]

    monkeypatch.setattr(Engine, "generate", generate_)


def test_generate_catches_answers_that_change(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1000))
    altered(monkeypatch, lambda a, _: replace(a, tokens=(next(calls), *a.tokens[1:])))
    fails(generate, index.system("llava-1.5"), "a second time: tokens")


def test_generate_catches_a_batch_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch, lambda a, n: replace(a, tokens=(n, *a.tokens[1:])))
    fails(generate, index.system("llava-1.5"), "alone: tokens")


def test_generate_catches_a_batch_that_shows_in_the_probabilities_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch, lambda a, n: replace(a, log_probs=(a.log_probs[0] + 0.001 * n, *a.log_probs[1:])))
    fails(generate, index.system("llava-1.5"), r"alone: log-probabilities of the same tokens are up to 5\.0e-03 apart")


def test_generate_catches_answers_that_do_not_depend_on_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch, lambda a, n: replace(a, log_probs=(0.0,) * len(a.tokens)))
    fails(generate, index.system("llava-1.5"), "greedy: all answers are one, whatever is asked")


def test_generate_catches_media_that_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def shade(answer: Answer, n: int) -> Answer:
        picture = Image.new("RGB", (4, 4), (10 * n, 0, 0))
        pictures = tuple(s if isinstance(s, Text) else replace(s, source=picture) for s in answer.segments)
        return replace(answer, segments=pictures)

    altered(monkeypatch, shade)
    fails(
        generate, index.system("chameleon"), r"alone: a medium of \(1, 4, 4, 3\) and one of \(1, 4, 4, 3\) that differ"
    )


# --- running them ------------------------------------------------------------------------------------------------


def test_stamps_run_in_order_and_an_error_stops_only_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(system: System, context: Context) -> str:
        raise RuntimeError("two\n lines")

    monkeypatch.setattr(row, "check", broken)
    for module in (build, layout, parity, train, generate):
        monkeypatch.setattr(module, "check", lambda system, context: "fine")
    checks = list(verify(index.system("llava-1.5")))
    assert [c.stamp for c in checks] == list(STAMPS)
    assert [(c.passed, c.detail) for c in checks] == [(False, "RuntimeError: two lines"), *[(True, "fine")] * 5]
    assert all(c.seconds >= 0 and c.system == "llava-1.5" for c in checks)
