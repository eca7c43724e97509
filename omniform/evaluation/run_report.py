"""The report of a run: what the page shows, gathered from its directory."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence

import torch

from omniform import __version__
from omniform.evaluation.measure import Measured
from omniform.evaluation.report import Report, Section, chosen
from omniform.evaluation.runs import Run
from omniform.evaluation.shown import shown_of, uri_of
from omniform.inference.engine import Engine
from omniform.model import Lmm


def run_report(run: Run, engine: Engine, measured: Sequence[Measured]) -> Report:
    """The report of a run's evaluations."""
    model: Lmm = engine.model
    size = run.recipe.resolved["size"]
    title = model.system.title if size == "full" else f"{model.system.title} at {size} size"
    return Report(
        title=f"{run.recipe.name}: {title}",
        sections=[_section(run, one) for one in measured],
        curves=run.curves(),
        facts={
            "Model": {"system": model.system.slug, "type": f"{model.system.input_type}{model.system.output_type}"},
            "Parameters": {part: f"{number:,}" for part, number in parameters(model).items()},
            "Training": _training(run),
            "Made with": _versions(engine),
        },
        texts={"The whole recipe": run.recipe.yaml()},
    )


def _section(run: Run, measured: Measured) -> Section:
    found, dataset = measured.found, measured.dataset
    numbers = chosen(found, *((24, 8) if found.media else ()))
    return Section(
        name=measured.name,
        subtitle=f"{_described(run, measured.settings.data)}, answers generated in {duration(found.seconds)}",
        evaluation=found,
        pictures={n: shown_of(dataset[n]) or "" for n in numbers},
        said={n: [uri_of(m) for m in found.media[n]] for n in numbers if found.media},
    )


def _described(run: Run, name: str) -> str:
    """The dataset in words: "easy-vqa, test"."""
    kinds = (", ".join(str(v) for k, v in config.items() if k in ("kind", "split")) for config in run.recipe.data[name])
    return " and ".join(kinds)


def parameters(model: Lmm) -> dict[str, int]:
    """Part path -> parameters as built, those that are without left out; and "total"."""
    found = {path: sum(p.numel() for p in model.part(path).parameters()) for path in model.system.parts()}
    return {**{p: n for p, n in found.items() if n}, "total": sum(p.numel() for p in model.parameters())}


def _training(run: Run) -> dict[str, str]:
    if not run.records:
        return {}
    last = run.records[-1]
    stages = {f"last loss, {curve.name}": f"{curve.losses[-1]:.4f}" for curve in run.curves()}
    return {
        "time": duration(run.seconds), "steps": f"{last['overall']:,}", "documents": f"{last['documents']:,}",
        "positions": f"{last['positions']:,}", "seed": str(run.recipe.seed), **stages,
    }  # fmt: skip


def _versions(engine: Engine) -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    threads = torch.get_num_threads()
    where = f"CPU, {threads} thread{'s'[: threads > 1]}" if engine.device.type == "cpu" else ""
    return {
        "omniform": __version__, **packages, "python": platform.python_version(),
        "evaluated on": where or torch.cuda.get_device_name(engine.device),
    }  # fmt: skip


def duration(seconds: float) -> str:
    """ "12 s", "6 min 12 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
