"""The promises about the shape of the package, read from its source."""

import ast
import functools
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flujo_async"
SOURCES = sorted(PACKAGE.rglob("*.py"))

THOUGHT = {"errors", "reducers", "_model", "_codec", "_plan", "_log"}  # floors 0 and 1: no I/O, no await, no clock
HANDS_ONLY = {"anyio", "asyncio", "time", "random", "sqlite3", "aiosqlite"}
LONGEST_FUNCTION = 60
LONGEST_MODULE = 500  # the list of all facts, and the fold that has a case for each
MOST_PUBLIC_NAMES = 47  # Usage and AuditEvent are what public calls return: they stand where the others do

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[tuple[str, list[str], int]]:
    """Yield (module, names taken from it, line) for every import of a file, lazy ones included."""
    package = module_name(path).split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, [], node.lineno
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*above, *filter(None, [node.module])]), [alias.name for alias in node.names], node.lineno


def for_the_type_checker(path: Path) -> set[int]:
    """Return the lines that only a type checker reads."""
    return {
        line
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for line in range(node.lineno, (node.body[-1].end_lineno or 0) + 1)
    }


def imported_modules(path: Path) -> set[str]:
    """Return the package's own modules that a file imports from when it runs, be it late."""
    found: set[str] = set()
    unread = for_the_type_checker(path)
    for module, names, line in imports(path):
        if line in unread:
            continue
        submodules = {f"{module}.{name}" for name in names} & MODULES.keys()
        found |= submodules
        if module in MODULES and len(submodules) < max(len(names), 1):
            found.add(module)
    return found - {module_name(path)}


def thought() -> list[Path]:
    return [path for path in SOURCES if path.relative_to(PACKAGE).with_suffix("").parts[0] in THOUGHT]


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_thought_does_not_wait() -> None:
    asynchronous = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    found = [
        where(path, node.lineno)
        for path in thought()
        for node in ast.walk(tree(path))
        if isinstance(node, asynchronous)
    ]
    assert found == []


def test_thought_has_no_clock_no_dice_and_no_driver() -> None:
    found = [
        f"{where(path, line)} imports {module}"
        for path in thought()
        for module, _, line in imports(path)
        if module.split(".")[0] in HANDS_ONLY
    ]
    assert found == []


def test_functions_fit_on_a_page() -> None:
    found = [
        f"{where(path, node.lineno)} {node.name}: {length} lines"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, FUNCTION) and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    ]
    assert found == []


def test_modules_have_one_thing_to_say() -> None:
    lengths = {module_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {module: length for module, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: imported_modules(path) for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " → ".join(reversed(error.args[1])), pytrace=False)


def test_the_package_imports_from_the_defining_module_never_from_the_root() -> None:
    found = [
        where(path, line)
        for path in SOURCES
        for module, names, line in imports(path)
        if module == "flujo_async" and any(f"flujo_async.{name}" not in MODULES for name in names or [""])
    ]
    assert found == []


@pytest.fixture
def root() -> ModuleType:
    return importlib.import_module("flujo_async")


def test_the_root_has_few_names_in_order(root: ModuleType) -> None:
    assert len(root.__all__) <= MOST_PUBLIC_NAMES
    assert list(root.__all__) == sorted(set(root.__all__))


def test_the_root_exports_exactly_its_names(root: ModuleType) -> None:
    """Those of modules that something else has imported aside."""
    for name in root.__all__:
        assert getattr(root, name) is not None
    submodules = {module.name for module in pkgutil.iter_modules(root.__path__)}
    assert {name for name in dir(root) if not name.startswith("_")} - submodules == set(root.__all__) - submodules
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = root.nothing


def test_what_is_not_used_is_not_imported() -> None:
    """Neither drivers nor stores, before somebody asks for one."""
    code = """if True:
        import sys, flujo_async
        assert not {"sqlite3", "aiosqlite", "pydantic", "flujo_async._runtime.flujo"} & sys.modules.keys()
        from flujo_async import Flujo, step
        assert "sqlite3" not in sys.modules and "flujo_async.backends.file" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
