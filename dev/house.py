"""The program as data: its modules, who imports whom, and what may import what.

Only text is read, nothing is imported: any checkout will do. grimp, on which import-linter stands,
knows packages alone; ours has modules at the top as well, which want rules like the others.
"""

import ast
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

# Not part of what runs in production.
BESIDE = frozenset({'bench', 'dev', 'docs', 'examples', 'tests'})


@dataclass(frozen=True)
class Module:
    """One file of Python."""

    name: str  # as it is imported, such as db.claims
    path: str  # from the root of the checkout
    text: str = field(repr=False)

    @property
    def room(self) -> str:
        """Its first name: a package, or a module at the top."""
        return self.name.partition('.')[0]

    @property
    def runs(self) -> bool:
        """Whether it is part of what runs in production."""
        return self.room not in BESIDE

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """Its lines, without their ends."""
        return self.text.splitlines()

    @cached_property
    def public(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
        """Its public functions and classes."""
        return [
            node
            for node in self.tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith('_')
        ]

    @cached_property
    def imported_names(self) -> set[str]:
        """Every dotted name that it imports: modules, and names that may be modules."""
        names = set()
        for node in ast.walk(self.tree):
            match node:
                case ast.Import():
                    names |= {alias.name for alias in node.names}
                case ast.ImportFrom(module=str(module), level=0):
                    names |= {f'{module}.{alias.name}' for alias in node.names}
                case ast.ImportFrom(level=level) if level:
                    parts = self.name.split('.')
                    if not self.path.endswith('__init__.py'):
                        parts.pop()
                    base = parts[: len(parts) - level + 1] + ([node.module] if node.module else [])
                    names |= {'.'.join([*base, alias.name]) for alias in node.names}
        return names


@dataclass(frozen=True)
class House:
    """All modules of a checkout."""

    root: Path
    modules: Mapping[str, Module]

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Return which modules of ours each module of production imports itself."""
        return {
            module.name: {found for name in module.imported_names if (found := self._ours(name))}
            - {module.name}
            for module in self.of_production()
        }

    @cached_property
    def importers(self) -> dict[str, set[str]]:
        """Return which modules of production import each module."""
        found: dict[str, set[str]] = {name: set() for name in self.modules}
        for importer, imported in self.imports.items():
            for name in imported:
                found[name].add(importer)
        return found

    def loaded_by(self, name: str) -> set[str]:
        """Return the modules that are loaded to read one, itself included."""
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += self.imports[module]
        return seen

    def of_production(self) -> Iterator[Module]:
        """Yield what runs in production."""
        return (module for module in self.modules.values() if module.runs)

    @cached_property
    def pyproject(self) -> dict[str, dict[str, dict[str, object]]]:
        """Return the content of pyproject.toml."""
        return tomllib.loads((self.root / 'pyproject.toml').read_text())

    @cached_property
    def may_import(self) -> dict[str, list[str]] | None:
        """Return the rooms that each room may import; None where there is no such table."""
        table = self.pyproject['tool'].get('house', {}).get('imports')
        return table if isinstance(table, dict) else None

    def _ours(self, dotted: str) -> str | None:
        """Return the module that a name means: itself, or the one it is defined in."""
        while dotted:
            if dotted in self.modules:
                return dotted
            dotted = dotted.rpartition('.')[0]
        return None


def read_house(root: Path) -> House:
    """Read the Python files that Git knows."""
    command = ['git', '-C', str(root), 'ls-files', '-co', '--exclude-standard', '*.py']
    paths = subprocess.check_output(command, text=True).splitlines()
    modules = {}
    for path in sorted(set(paths)):
        if (root / path).is_file():
            name = path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
            modules[name] = Module(name, path, (root / path).read_text())
    return House(root, modules)
