"""The rules of the house hold everywhere; each rule is shown to catch what it is there for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import house
import pytest
from house import PACKAGE, ROOT

from omniform import geometry, index, prompt, spec, stage, survey

FILES = house.sources()
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
TEST_FILES = house.sources(ROOT / "tests")
MOST_LINES, MOST_FUNCTION_LINES = 400, 60

UPWARD_ALLOWED = {
    "index imports omniform.parts",  # to tell part classes from others, when it lists the members of a folder
}
NAMES_ALLOWED: dict[str, set[str]] = {
    # "LLaVA's JSON" is what the field calls that file format
    "data/files.py": {"llava"},
    "data/datasets.py": {"llava"},
    # transformers' name of the family that has these layers
    "backbones/qk_normed.py": {"chameleon"},
    "backbones/qk_normed_module.py": {"chameleon"},
}
FIELDS_ALLOWED: set[str] = set()


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def ids(paths: list[Path]) -> list[str]:
    return [p.relative_to(ROOT).as_posix() for p in paths]


# --- direction ---------------------------------------------------------------------------------------------------


def test_every_unit_has_a_layer() -> None:
    units = {house.unit(p) for p in FILES} - {"__init__"}
    placed = [name for names in house.LAYERS for name in names]
    assert units - set(placed) == set()
    assert len(placed) == len(set(placed))


def test_imports_go_one_way() -> None:
    found = [
        line
        for path, tree in TREES.items()
        if house.unit(path) != "__init__"
        for line in house.upward(house.unit(path), house.imports(tree))
    ]
    assert set(found) - UPWARD_ALLOWED == set()


def test_nothing_imports_systems() -> None:
    others = {p: t for p, t in TREES.items() if house.unit(p) != "systems"}
    found = [short(p) for p, t in others.items() for m in house.imports(t) if m.startswith("omniform.systems")]
    assert found == []


@pytest.mark.parametrize(
    ("unit", "module", "count"),
    [
        ("encoders", "omniform.model", 1),
        ("encoders", "omniform.connectors.mlp", 1),
        ("encoders", "omniform.encoders.vit", 0),
        ("spec", "omniform.training.recipe", 1),
        ("cli", "omniform.verify.stamps", 0),
        ("evaluation", "omniform.cli.output", 1),
        ("model", "torch.nn", 0),
    ],
)
def test_upward_imports_are_caught(unit: str, module: str, count: int) -> None:
    assert len(house.upward(unit, house.imports(ast.parse(f"def late():\n    import {module}")))) == count


# --- torch-free --------------------------------------------------------------------------------------------------


def test_declarations_do_not_import_torch() -> None:
    found = {short(p): house.heavy(t, late=True) for p, t in TREES.items() if house.is_torch_free(p)}
    assert {p: m for p, m in found.items() if m} == {}


def test_commands_do_not_import_torch_before_they_run() -> None:
    found = {short(p): house.heavy(t, late=False) for p, t in TREES.items() if house.unit(p) == "cli"}
    assert {p: m for p, m in found.items() if m} == {}


def test_importing_everything_torch_free_loads_no_torch() -> None:
    paths = [p for p in FILES if house.is_torch_free(p) or house.unit(p) == "cli"]
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in paths]
    code = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted(m for m in sys.modules if m in {sorted(house.HEAVY)!r}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_late_and_early_imports_are_told_apart() -> None:
    tree = ast.parse("import json\ndef f():\n    import torch\nif TYPE_CHECKING:\n    import numpy\n")
    assert house.heavy(tree, late=False) == []
    assert house.heavy(tree, late=True) == ["torch", "numpy"]


# --- names -------------------------------------------------------------------------------------------------------


@cache
def system_names() -> list[str]:
    """Slugs and titles, the longest first."""
    here = [name.lower() for slug in index.names("systems") for name in (slug, index.system(slug).title)]
    return sorted({*here, *(row.slug for row in survey.rows())}, key=lambda name: (-len(name), name))


@pytest.mark.parametrize("path", [p for p in FILES if house.unit(p) != "systems"], ids=short)
def test_no_code_names_a_system(path: Path) -> None:
    names = system_names()
    found = {
        name
        for _, text in house.code_words(path.read_text(encoding="utf-8"))
        if (name := house.names_a_system(text, names))
    }
    assert found - NAMES_ALLOWED.get(short(path), set()) == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('x = "llava-1.5"', "llava-1.5"),
        ("if LlavaNext: pass", "llava-next"),
        ("def load_qwen2_vl(): pass", "qwen2-vl"),
        ('def f():\n    """As in LLaVA-1.5."""\n', None),
        ("x = 1  # LLaVA-1.5 does so", None),
        ('x = "decode important"', None),
    ],
)
def test_names_are_found_in_code_and_not_in_prose(source: str, found: str | None) -> None:
    names = system_names()
    hits = [name for _, text in house.code_words(source) if (name := house.names_a_system(text, names))]
    assert hits == ([found] if found else [])


# --- parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in index.PART_KINDS if index.declarations(k)])
def test_every_folder_of_parts_has_its_contract_test(kind: str) -> None:
    pattern = re.compile(rf"""(declarations|names)\(["']{kind}["']\)""")
    covering = [p.name for p in TEST_FILES if p.name.startswith("test_") and pattern.search(p.read_text("utf-8"))]
    assert covering, f"no test is parametrised over index.declarations({kind!r})"


def declared_classes() -> list[type]:
    parts = [c for kind in index.PART_KINDS for c in index.declarations(kind).values()]
    bases = [b for c in parts for b in c.__mro__ if is_dataclass(b)]
    return list(dict.fromkeys([*bases, *_own(spec), *_own(stage), *_own(prompt), *_own(geometry)]))


def _own(module: ModuleType) -> list[type]:
    values = vars(module).values()
    return [v for v in values if isinstance(v, type) and is_dataclass(v) and v.__module__ == module.__name__]


def test_every_declared_field_is_read() -> None:
    read = house.reads(TREES)
    unread = {f"{c.__name__}.{f.name}" for c in declared_classes() for f in fields(c) if f.name not in read}
    assert unread - FIELDS_ALLOWED == set()


def test_checks_at_construction_are_no_reads() -> None:
    tree = ast.parse("class A:\n    def __post_init__(self): self.x\n    def f(self): return self.y\n")
    assert house.reads({Path("a"): tree}) == {"y"}


# --- form --------------------------------------------------------------------------------------------------------


def test_files_are_short() -> None:
    sizes = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in [*FILES, *TEST_FILES]}
    assert {p.relative_to(ROOT).as_posix(): n for p, n in sizes.items() if n > MOST_LINES} == {}


def test_functions_are_short() -> None:
    found = {short(p): house.long_functions(t, MOST_FUNCTION_LINES) for p, t in TREES.items()}
    assert {p: f for p, f in found.items() if f} == {}


def test_no_star_imports_no_bare_except() -> None:
    found = {short(p): [*house.star_imports(t), *house.bare_excepts(t)] for p, t in TREES.items()}
    assert {p: f for p, f in found.items() if f} == {}


def test_no_module_keeps_state() -> None:
    found = {short(p): house.module_state(t) for p, t in TREES.items()}
    assert {p: f for p, f in found.items() if f} == {}


def test_every_raise_says_something() -> None:
    allowed = {
        "parts.py": ["NotImplementedError"],  # the contracts: what every member must say
        "writing.py": ["NotImplementedError"],
        "outputs.py": ["NotImplementedError"],
        "routing.py": ["NotImplementedError"],
        "encoders/image_module.py": ["NotImplementedError"],
        "encoders/audio_module.py": ["NotImplementedError"],
        "encoders/audio.py": ["NotImplementedError"],
        "encoders/imagebind.py": ["NotImplementedError"],
        "cli/main.py": ["typer.Exit"],  # how a typer callback ends the program without an error
    }
    found = {short(p): house.wordless_raises(t, allowed.get(short(p), ())) for p, t in TREES.items()}
    assert {p: f for p, f in found.items() if f} == {}


def test_hasattr_only_for_versions_of_transformers() -> None:
    found = {short(p): house.unexplained_hasattr(p.read_text(encoding="utf-8")) for p in FILES}
    assert {p: f for p, f in found.items() if f} == {}


@pytest.mark.parametrize(
    ("source", "violations"),
    [
        ("cache = {}", 1),
        ("CACHE = {}\ndef f(): CACHE['a'] = 1", 1),
        ("CACHE: dict = {}\ndef f(): CACHE.update(a=1)", 1),
        ("seen = set()", 1),
        ("def f():\n    global x", 1),
        ("SIZES = {'a': 1}\ndef f(): return SIZES['a']", 0),
        ("__all__ = ['a']\ndef f():\n    cache = {}\n    cache['a'] = 1", 0),
    ],
)
def test_module_state_is_caught(source: str, violations: int) -> None:
    assert len(house.module_state(ast.parse(source))) == violations


@pytest.mark.parametrize(
    ("source", "violations"),
    [
        ("raise ValueError", 1),
        ("raise ValueError()", 1),
        ("raise ValueError('what, where, how')", 0),
        ("try: pass\nexcept OSError as error: raise error", 0),
        ("raise unknown('part', name, known)", 0),
    ],
)
def test_wordless_raises_are_caught(source: str, violations: int) -> None:
    assert len(house.wordless_raises(ast.parse(source))) == violations


@pytest.mark.parametrize(
    ("rule", "source", "violations"),
    [
        (house.star_imports, "from omniform import *", 1),
        (house.bare_excepts, "try: pass\nexcept: pass", 1),
        (house.bare_excepts, "try: pass\nexcept OSError: pass", 0),
        (lambda tree: house.long_functions(tree, 3), "def f():\n    a\n    b\n    c", 1),
        (lambda tree: house.unexplained_hasattr(ast.unparse(tree)), "hasattr(x, 'y')", 1),
    ],
)
def test_other_rules_catch_what_they_are_for(rule, source: str, violations: int) -> None:  # type: ignore[no-untyped-def]
    assert len(rule(ast.parse(source))) == violations
