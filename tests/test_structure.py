"""The house rules: imports run one way, files stay short, heavy libraries are imported where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "recommender"
FILES = sorted(PACKAGE.rglob("*.py"))

# A module may import only modules named before its own line; names on one line do not import each other (a package's
# own modules may). `recommender` itself is the door: it re-exports, and nothing inside may go through it.
ORDER = """
errors
resources threads units
table_files
tables
runs normalise catalogue
datasets measurement
profiling pricing
candidates inputs
enumeration
problem recommendation
models
search archives
archive_report
scoring break_even
ranking
composition
automatic repricing
strategies
explanation
pending store_file question run_command
store
study
tuning
replay checkpoint
leakage workers
evaluation
summary
report
commands
cli
__main__
"""
LINE = {name: number for number, line in enumerate(ORDER.split("\n")) for name in line.split()}
MOST_LINES = 400
HEAVY = ("matplotlib", "numpy", "pandas", "pyarrow", "rich", "scipy", "sklearn", "skopt", "surprise")


def top(path: Path) -> str:
    """The name in ORDER of a file: its package, or itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import that runs, lazy ones included; those under TYPE_CHECKING do not run."""
    found = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            base = node.module or ""
            found.extend(
                (node.lineno, f"{base}.{alias.name}" if base == "recommender" else base) for alias in node.names
            )
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
class TestEveryFile:
    def test_imports_run_one_way(self, path: Path) -> None:
        if path == PACKAGE / "__init__.py":
            return
        mine = top(path)
        assert mine in LINE, f"name {mine} in ORDER of {Path(__file__).name}, below everything it imports"
        for line, module in imports(path):
            parts = module.split(".")
            if parts[0] != "recommender":
                continue
            assert len(parts) > 1, f"{path}:{line} imports the package's door; import the module itself"
            other = parts[1]
            assert other in LINE, f"{path}:{line} imports {module}, which ORDER does not name"
            if other != mine:
                assert LINE[other] < LINE[mine], f"{path}:{line}: {mine} must not import {other}"

    def test_is_no_longer_than_a_reader_can_hold(self, path: Path) -> None:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES

    def test_has_a_docstring_and_postponed_annotations(self, path: Path) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree)
        if any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in tree.body) and path.name != "__init__.py":
            assert any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)

    def test_neither_prints_nor_evaluates_nor_pickles_nor_exits(self, path: Path) -> None:
        calls = []
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                calls.append((node.lineno, ast.unparse(node.func)))
        forbidden = {"print", "eval", "exec", "compile", "input", "breakpoint", "quit", "os._exit", "os.system"}
        at_the_edge = top(path) in ("cli", "commands", "__main__")
        for line, name in calls:
            assert name not in forbidden, f"{path}:{line} calls {name}"
            assert name not in ("exit", "sys.exit") or at_the_edge, f"{path}:{line} ends the process"
            assert name not in ("warnings.simplefilter", "warnings.filterwarnings"), f"{path}:{line} hides warnings"
        processes = {"joblib"} if top(path) == "workers" else set()  # to start them, not to store objects
        for line, module in imports(path):
            stores = {"pickle", "shelve", "marshal", "joblib", "dill"} - processes
            assert module.split(".")[0] not in stores, f"{path}:{line}"

    def test_asserts_only_what_the_reader_can_see_holds(self, path: Path) -> None:
        """User input is checked with errors that have a sentence: an assert may only narrow a type."""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                test = ast.unparse(node.test)
                narrowing = test.endswith("is not None") or test.startswith("isinstance(")
                assert narrowing, f"{path}:{node.lineno} asserts {test}"


def test_no_two_lines_of_the_order_name_one_module_and_each_exists() -> None:
    names = ORDER.split()
    assert len(names) == len(set(names))
    existing = {top(path) for path in FILES} - {"__init__"}
    assert existing == set(names)


def test_the_door_re_exports_and_does_nothing_else() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign, ast.AnnAssign, ast.If, ast.FunctionDef)
    assert all(isinstance(node, allowed) for node in tree.body)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("module", ["recommender.cli", "recommender.commands.recommend", "recommender"])
def test_heavy_libraries_are_imported_where_they_are_used(module: str) -> None:
    heavy = [name for name in HEAVY if name != "rich"]
    code = f"import sys, {module}; print(*(m for m in {heavy!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_importing_the_library_writes_and_reads_no_file_of_the_user(tmp_path: Path) -> None:
    code = "import recommender.strategies, recommender.datasets"
    environment = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "c")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment, timeout=60)
    assert list(tmp_path.iterdir()) == []
