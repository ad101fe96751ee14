"""Sources fit the head of a reader: modules and functions are short, public names say what they are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cli", "engine", "fidelity", "hwprofiles", "modelspecs", "policies", "reports", "sim", "studies", "traces")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULE_LINES = 450
FUNCTION_LINES = 70
POSITIONAL_FIELDS = 8
HOT = {
    "DecisionEntry": "a row of the decision log: made once per iteration, written and compared as a tuple",
    "GemmRates": "numbers that a product's seconds follow from, given by name from the sixth on",
    "NotedStrides": "columns unpacked from bytes, in the order in which the loop packs them",
}
"""Records with more positional fields all the same, and why: packed rows of the inner loop."""
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def where(path: Path, node: ast.AST | None = None) -> str:
    return path.relative_to(ROOT).as_posix() + (f":{node.lineno}" if isinstance(node, Definition) else "")


def code_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]


def overload(node: Definition) -> bool:
    """Whether it only declares a signature: what it does is said once, where it is done."""
    return any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)


def definitions(tree: ast.AST, public: bool = True) -> Iterator[tuple[Definition, bool]]:
    """Yield (definition, whether it is public and stands in nothing but public classes)."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition):
            seen = public and not node.name.startswith("_")
            yield node, seen
            # What stands in a function is its own business.
            yield from definitions(node, seen and isinstance(node, ast.ClassDef))
        else:
            yield from definitions(node, public)


def test_there_is_something_to_look_at():
    assert len(MODULES) > 100


def test_modules_are_short():
    """Lines of code and docstrings, blanks and comments apart."""
    counts = {where(path): len(code_lines(path)) for path in MODULES}
    assert {name: count for name, count in counts.items() if count > MODULE_LINES} == {}


def test_functions_fit_a_screen():
    long = [
        f"{where(path, node)} {node.name}: {lines} lines"
        for path in MODULES
        for node, _ in definitions(parsed(path))
        if not isinstance(node, ast.ClassDef) and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert long == []


def test_every_module_and_public_name_says_what_it_is():
    silent = [where(path) for path in MODULES if not ast.get_docstring(parsed(path))]
    silent += [
        f"{where(path, node)} {node.name}"
        for path in MODULES
        for node, public in definitions(parsed(path))
        if public and not overload(node) and not ast.get_docstring(node)
    ]
    assert silent == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_where_it_stands(package: str):
    """More than its name: what it is for, and what it knows nothing of."""
    docstring = ast.get_docstring(parsed(ROOT / package / "__init__.py")) or ""
    assert len(docstring) > 60


def test_nothing_is_left_unfinished():
    words = ("TODO", "FIXME", "XXX", "NotImplementedError")
    left = [
        f"{where(path)}:{number}"
        for path in MODULES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if any(word in line for word in words)
    ]
    assert left == []


def positional_fields(node: ast.ClassDef) -> int:
    """Count what a record's constructor takes by position."""
    made = [ast.unparse(decorator) for decorator in node.decorator_list]
    record = any(word.startswith(("dataclass", "dataclasses.dataclass")) for word in made)
    if not record and "NamedTuple" not in [ast.unparse(base) for base in node.bases]:
        return 0
    if any("kw_only=True" in word for word in made):
        return 0
    told = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    fields = [ast.unparse(part.target) for part in told if "kw_only=True" not in ast.unparse(part)]
    return fields.index("_") if "_" in fields else len(fields)


def test_positions_are_counted():
    tree = ast.parse(
        "@dataclass(frozen=True)\nclass A:\n a: int\n c: int = field(kw_only=True)\n _: KW_ONLY\n b: int\n"
        "@dataclass(kw_only=True)\nclass B:\n a: int\n"
        "class C(NamedTuple):\n a: int\n b: int\n"
        "class D:\n a: int\n"
    )
    assert [positional_fields(node) for node in tree.body if isinstance(node, ast.ClassDef)] == [1, 0, 2, 0]


def test_no_record_has_more_positional_fields_than_one_can_keep_apart():
    many = {
        node.name: where(path, node)
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef) and positional_fields(node) > POSITIONAL_FIELDS
    }
    assert many.keys() == HOT.keys(), many
