"""What is wrong with a template's files, without filling them: looked for when they are pushed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta, nodes

from mail.template.jinja import Sandbox, TemplateError, printable

# A variable that is asked about may be missing.
ASKING_TESTS = ('defined', 'undefined')
ASKING_FILTERS = ('default', 'd')
OF_ITSELF = frozenset({'locale', 'loop', 'caller'})


def check_files(
    environment: Sandbox,
    files: Mapping[str, str],
    parts: Sequence[str | None],
    sample: Mapping[str, Any],
) -> None:
    """Read every file.

    Args:
        parts: The paths of subject, text and HTML.
        sample: What it is to be filled with; a variable that is in none of it is a mistake.
    Raises:
        TemplateError: names the file and the line.
    """
    if parts[0] is not None and len(files[parts[0]].strip().splitlines()) > 1:
        raise TemplateError(f'template {parts[0]} line 2: a subject is one line')
    trees = {path: _parsed(environment, path, source) for path, source in files.items()}
    for path, tree in trees.items():
        for node, name in _named(tree):
            if name is None:
                raise TemplateError(f'template {path} line {node.lineno}: write the file name out')
            if name not in files:
                what = f'there is no file {name[:200]!r}'
                raise TemplateError(f'template {path} line {node.lineno}: {what}')
    _check_variables(trees, sample)


def _parsed(environment: Sandbox, path: str, source: str) -> nodes.Template:
    try:
        return environment.parse(source, path, path)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f'template {error.name or path} line {error.lineno}: {printable(error.message or "")}'
        ) from error
    except RecursionError as error:
        raise TemplateError(f'template {path}: it is nested too deep') from error


Naming = nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport


def _named(tree: nodes.Template) -> Iterator[tuple[nodes.Node, str | None]]:
    """Yield each name of a file with its place; None where it is not written out."""
    for node in tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
        named: nodes.Node = node.template  # type: ignore[attr-defined]  # all of these have it
        choices = named.items if isinstance(named, nodes.List | nodes.Tuple) else [named]
        for choice in choices:
            is_text = isinstance(choice, nodes.Const) and isinstance(choice.value, str)
            yield node, choice.value if is_text else None  # type: ignore[attr-defined]


def _check_variables(trees: Mapping[str, nodes.Template], sample: Mapping[str, Any]) -> None:
    # An include knows what the file around it has set, so what any of them sets is known to all.
    known = {*sample, *OF_ITSELF}
    asked: set[str] = set()
    for tree in trees.values():
        known |= {node.name for node in tree.find_all(nodes.Name) if node.ctx != 'load'}
        known |= {macro.name for macro in tree.find_all(nodes.Macro)}
        for test in tree.find_all(nodes.Test):
            if test.name in ASKING_TESTS and isinstance(test.node, nodes.Name):
                asked.add(test.node.name)
        for filtered in tree.find_all(nodes.Filter):
            if filtered.name in ASKING_FILTERS and isinstance(filtered.node, nodes.Name):
                asked.add(filtered.node.name)
    for path, tree in trees.items():
        missing = meta.find_undeclared_variables(tree) - known - asked
        for node in tree.find_all(nodes.Name):
            if node.name in missing:
                raise TemplateError(
                    f'template {path} line {node.lineno}: {node.name!r} is in no sample.json '
                    'beside it'
                )
