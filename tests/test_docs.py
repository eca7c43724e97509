"""Documentation is run and compared: its examples, its table of systems, its links, its commands.

`python -m tests.test_docs` writes the table of systems anew.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from omniform import catalogue, index, survey
from omniform.cli import main
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
    own, known = len(index.names("systems")), len(survey.rows())
    more = f"\n{own} systems; `omniform list` has all {known} of the survey, those that are not here yet with a dot.\n"
    return "\n".join(rows) + "\n" + more


def test_the_table_of_systems_is_current() -> None:
    match = TABLE.search(README.read_text(encoding="utf-8"))
    assert match and match[2] == systems_table(), "run `python -m tests.test_docs`"


def test_the_example_composes_a_model_and_prints_its_cost() -> None:
    text = README.read_text(encoding="utf-8")
    (code,), (output,) = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "text"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == output
    assert "196 of 228 positions" in output and len([line for line in code.splitlines() if line]) == 10


def test_prose_is_wrapped() -> None:
    """Lines of 120 characters at most, tables and links aside."""
    long = [
        f"{page.name}:{number}: {line[:40]}"
        for page in PAGES
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 120 and not line.startswith(("|", "!["))
    ]
    assert long == []


def test_commands_of_the_readme_are_all_there_are() -> None:
    text = README.read_text(encoding="utf-8")
    table = text[text.index("| command |") : text.index("Listings and single answers")]
    assert set(re.findall(r"`(?:omniform )?(\w+)[ `]", table)) >= {*main.commands()}


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


def test_the_guide_names_every_place_and_tells_how_long_reading_takes() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = {path.name for path in (ROOT / "omniform").glob("[!_]*") if path.suffix in (".py", "")}
    assert [name for name in sorted(places) if name not in text] == []
    said, files = re.search(r"about (\d+) lines: (.*?)\.\n", text, re.DOTALL).groups()  # type: ignore[union-attr]
    paths = [
        ROOT / name if "/" in name else ROOT / "omniform/connectors" / name for name in re.findall(r"`(.*?)`", files)
    ]
    assert sum(len(path.read_text("utf-8").splitlines()) for path in paths) == pytest.approx(int(said), rel=0.1)


if __name__ == "__main__":
    page = README.read_text(encoding="utf-8")
    README.write_text(TABLE.sub(lambda m: m[1] + systems_table() + m[3], page), encoding="utf-8")
