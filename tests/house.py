"""The rules of the house as functions: source or tree in, violations out. `test_house.py` runs them on the package."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "omniform"
PART_FOLDERS = ("views", "encoders", "connectors", "fusion", "experts", "backbones", "codecs", "diffusion", "decoders")

LAYERS: tuple[tuple[str, ...], ...] = (
    ("frozen", "index"),
    ("geometry",),
    ("change",),
    ("part",),
    ("writing",),
    ("parts", "outputs", "prompt", "grammar"),
    ("routing", "latent"),
    ("stage", "release", "inputs"),
    ("spec",),
    ("batch", "attention", "scan"),
    PART_FOLDERS,
    ("systems",),
    ("serial", "survey", "facts", "catalogue", "cost"),
    ("weights",),
    ("model",),
    ("data",),
    ("training", "inference"),
    ("evaluation",),
    ("verify",),
    ("cli",),
)
"""Units of the package from the ground up; a unit imports its own layer and those below; `__init__` is free."""

TORCH_FREE_UNITS = (
    "frozen", "index", "geometry", "change", "part", "writing", "parts", "outputs", "prompt", "grammar", "routing",
    "latent", "stage", "release", "inputs", "spec", "serial", "survey", "facts", "catalogue", "cost", "systems",
    *PART_FOLDERS,
)  # fmt: skip
HEAVY = frozenset(
    {"torch", "transformers", "torchvision", "peft", "accelerate", "safetensors", "numpy", "PIL", "diffusers"}
)


def sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def unit(path: Path) -> str:
    """The first name below the package: file or folder."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


def is_torch_free(path: Path) -> bool:
    return unit(path) in TORCH_FREE_UNITS and not path.stem.endswith("_module")


# --- imports -----------------------------------------------------------------------------------------------------


def imports(tree: ast.AST, *, late: bool = True) -> Iterator[str]:
    """Names of imported modules ("omniform.spec"); without `late` only those that run when the module is imported."""
    for node in ast.walk(tree) if late else _at_import(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "omniform":
                yield from (f"omniform.{alias.name}" for alias in node.names)


def _at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes outside functions and `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not typing_only and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _at_import(node)


def upward(name: str, imported: Iterable[str]) -> list[str]:
    """Imports of a unit that lie above it, or in a sibling folder of parts."""
    bad = []
    for module in imported:
        other = module.split(".")[1] if module.startswith("omniform.") else ""
        sibling = name in PART_FOLDERS and other in PART_FOLDERS and name != other
        if other and not other.startswith("_") and other != name and (layer(other) > layer(name) or sibling):
            bad.append(f"{name} imports {module}")
    return bad


def heavy(tree: ast.AST, *, late: bool) -> list[str]:
    return [m for m in imports(tree, late=late) if m.split(".")[0] in HEAVY]


# --- names of systems --------------------------------------------------------------------------------------------


@cache
def words(text: str) -> str:
    """Lower-case words of an identifier or a string, between spaces: parted at punctuation, "_", camels and digits."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])", " ", text)
    return f" {' '.join(re.findall(r'[a-z]+|[0-9]+', spaced.lower()))} "


def names_a_system(text: str, names: Iterable[str]) -> str | None:
    """The first of the names whose words stand in the text, one after the other."""
    have = words(text)
    return next((name for name in names if words(name) in have), None)


def code_words(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of identifiers and strings; docstrings and comments cite their sources and are left out."""
    tree = ast.parse(source)
    prose = {
        node.lineno
        for parent in ast.walk(tree)
        if isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef)
        for node in parent.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NAME, tokenize.STRING) and token.start[0] not in prose:
            yield token.start[0], token.string


# --- functions, files, statements --------------------------------------------------------------------------------


def long_functions(tree: ast.AST, most: int) -> list[str]:
    found = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return [f"{n.name}: {size}" for n in found if (size := (n.end_lineno or 0) - n.lineno + 1) > most]


def star_imports(tree: ast.AST) -> list[str]:
    nodes = (n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom))
    return [f"line {n.lineno}" for n in nodes if any(a.name == "*" for a in n.names)]


def bare_excepts(tree: ast.AST) -> list[str]:
    return [f"line {n.lineno}" for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.type is None]


def wordless_raises(tree: ast.AST, allowed: Iterable[str] = ()) -> list[str]:
    """`raise X` and `raise X()` of classes; re-raising a caught error is fine."""
    bad = []
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.Raise) and n.exc):
        silent = isinstance(node.exc, ast.Call) and not node.exc.args and not node.exc.keywords
        named = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        name = ast.unparse(named) if named else ""
        is_class = name.split(".")[-1][:1].isupper()
        if is_class and (silent or not isinstance(node.exc, ast.Call)) and name not in allowed:
            bad.append(f"line {node.lineno}: raise {name}")
    return bad


MUTABLE = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
MAKERS = ("dict", "list", "set", "defaultdict", "OrderedDict", "deque", "Counter")
CHANGES = ("append", "extend", "insert", "update", "add", "pop", "popitem", "setdefault", "clear", "remove", "discard")


def module_state(tree: ast.Module) -> list[str]:
    """Mutable values at module level that are not constants, constants that are changed, and `global`."""
    bad = [f"line {n.lineno}: global" for n in ast.walk(tree) if isinstance(n, ast.Global)]
    constants = set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and _is_mutable(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [ast.unparse(t) for t in targets]
            constants.update(names)
            bad += [f"line {node.lineno}: {n}" for n in names if not n.strip("_").isupper() and n != "__all__"]
    return bad + [f"line {n.lineno}: {ast.unparse(n)}" for n in ast.walk(tree) if _changes(n, constants)]


def _is_mutable(value: ast.AST) -> bool:
    return isinstance(value, MUTABLE) or (isinstance(value, ast.Call) and ast.unparse(value.func) in MAKERS)


def _changes(node: ast.AST, constants: set[str]) -> bool:
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        return ast.unparse(node.value) in constants
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
        return ast.unparse(node.func.value) in constants
    return isinstance(node, ast.AugAssign) and ast.unparse(node.target) in constants


def unexplained_hasattr(source: str) -> list[str]:
    """`hasattr` is for differences between versions of transformers, and says so on its line or the one above."""
    lines = source.splitlines()
    calls = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "hasattr")
    return [f"line {n.lineno}" for n in calls if "transformers" not in " ".join(lines[max(0, n.lineno - 2) : n.lineno])]


# --- fields ------------------------------------------------------------------------------------------------------


def reads(trees: Mapping[Path, ast.AST]) -> set[str]:
    """Names of attributes that are read anywhere, checks at construction left out."""
    found: set[str] = set()
    for tree in trees.values():
        checks = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == "__post_init__"
            for inner in ast.walk(node)
        }
        found |= {
            n.attr
            for n in ast.walk(tree)
            if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load) and id(n) not in checks
        }
    return found
