"""Documentation is run and compared: its examples, its table of systems, its links, its commands.

`python -m tests.test_docs` writes the table of systems anew.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from omniform import catalogue, index
from omniform.facts import facts
from omniform.verify.stamps import STAMPS, recorded

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "RESULTS.md"]
TABLE = re.compile(r"(<!-- systems -->\n)(.*?)(<!-- /systems -->)", re.DOTALL)


def systems_table() -> str:
    """Markdown of the systems written down here, in the survey's order."""
    rows = [
        "| system | type | date | language model | encoder | connection | stamps |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in catalogue.entries():
        if entry.here:
            earned = recorded().get(entry.slug, {})
            stamps = "".join(name[0].upper() if earned.get(name) else "-" for name in STAMPS)
            derived = facts(index.system(entry.slug))
            parts = (derived.cell(c) for c in ("llm_backbone", "modality_encoder", "connection"))
            cells = (f"`{entry.slug}`", entry.type, entry.date, *parts, stamps)
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def test_the_table_of_systems_is_current() -> None:
    match = TABLE.search(README.read_text(encoding="utf-8"))
    assert match and match[2] == systems_table(), "run `python -m tests.test_docs`"


def test_the_example_composes_a_model_and_prints_its_cost() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(blocks[0], "README.md", "exec"), {})
    assert printed.getvalue() == "A 1\n196 positions of 228\n1.98 G parameters, 1.3 TFLOPs to read, 6.2 MiB of cache\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_recipes_and_make_targets_named_in_the_readme_exist() -> None:
    text = README.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all((ROOT / r).exists() for r in re.findall(r"recipes/\w+\.yaml", text))
    assert all(f"\n{target}:" in makefile for target in re.findall(r"`?make (\w+)", text))


if __name__ == "__main__":
    page = README.read_text(encoding="utf-8")
    README.write_text(TABLE.sub(lambda m: m[1] + systems_table() + m[3], page), encoding="utf-8")
