# SPDX-License-Identifier: Apache-2.0
"""Imports point downward only, and each outside library has one package that may import it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "glideflow": ROOT / "src" / "glideflow",
    "glideflow_flows": ROOT / "flows" / "glideflow_flows",
    "glideflow_pilot": ROOT / "pilot" / "glideflow_pilot",
}
ADAPTERS = {"store", "condor", "launching", "transfer", "identity"}
# What each package may import of ours; a package may always import itself, and all may import these three.
EVERYBODY = {"errors", "settings", "resources"}
MAY_IMPORT = {
    "domain": set[str](),
    **{adapter: {"domain", *ADAPTERS} for adapter in ADAPTERS},
    "services": {"domain", *ADAPTERS},
    "settings": {"configuration", "documents"},
    "configuration": {"documents"},
    "documents": {"domain"},
    "resources": set[str](),
    "errors": set[str](),
}
OWNERS = {
    "psycopg": {"store"},
    "psycopg_pool": {"store"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "htcondor2": {"condor"},
    "classad2": {"condor"},
    "prefect": {"glideflow_flows"},
    "fastapi": {"api"},
    "starlette": {"api"},
    "uvicorn": {"api", "testing"},
}
# Who may know of the supervisor, the home and the embedded database besides the package itself.
INSTANCE_USERS = {"cli", "api", "factory", "client", "testing", "glideflow_flows"}
LOWER = {"domain", "services", *ADAPTERS}


def _files() -> list[tuple[str, Path]]:
    return [(package, path) for package, folder in SOURCES.items() for path in sorted(folder.rglob("*.py"))]


def _part(package: str, path: Path) -> str:
    """The word the rules are about: the subpackage or module of glideflow, or the other package's name."""
    if package != "glideflow":
        return package
    inside = path.relative_to(SOURCES[package]).parts
    return inside[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _violations(package: str, path: Path) -> Iterator[str]:
    part = _part(package, path)
    for name in _imports(path):
        top, *rest = name.split(".")
        if top in OWNERS and part not in OWNERS[top]:
            yield f"only {', '.join(OWNERS[top])} may import {top}"
        if part in LOWER and top == "glideflow_flows":
            yield f"{part} imports the flows above it"
        if top == "glideflow" and rest:
            yield from _inside(part, rest[0])


def _inside(part: str, imported: str) -> Iterator[str]:
    if imported == part or imported in EVERYBODY or not _exists(imported):
        return
    if imported == "instance" and part not in INSTANCE_USERS:
        yield f"{part} imports the instance, which only {', '.join(sorted(INSTANCE_USERS))} may"
    if part in MAY_IMPORT and imported not in MAY_IMPORT[part]:
        yield f"{part} imports {imported}, which is not below it"


def _exists(part: str) -> bool:
    folder = SOURCES["glideflow"]
    return (folder / part).is_dir() or (folder / f"{part}.py").exists()


@pytest.mark.parametrize(
    ("package", "path"), _files(), ids=lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else value
)
def test_imports_point_downward(package: str, path: Path) -> None:
    assert not sorted(set(_violations(package, path)))


def test_only_the_settings_read_the_environment() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for package, path in _files()
        if package != "glideflow_pilot" and path.name != "settings.py" and _reads_environment(path)
    ]
    assert not readers


def _reads_environment(path: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("os", "environ"), ("os", "getenv"), ("os", "putenv")}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_the_pilot_imports_the_standard_library_only() -> None:
    outside = {
        name.split(".")[0]
        for package, path in _files()
        if package == "glideflow_pilot"
        for name in _imports(path)
        if name.split(".")[0] in {"glideflow", "glideflow_flows", "psutil", "httpx", "requests", "pydantic"}
    }
    assert not outside


def test_every_python_file_names_its_licence_and_purpose() -> None:
    for _, path in _files():
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
        assert ast.get_docstring(ast.parse(text)) or path.name == "__init__.py", path
