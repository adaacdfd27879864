"""What is measured of the program's text, each as a list of places: its length is the measure."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from dev.house import House, Module
from dev.states_listed import files_that_list_states

MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 45
MAX_COLUMNS = 100
MAX_ATTRIBUTES = 15

Function = ast.FunctionDef | ast.AsyncFunctionDef

# Each command, page or check has these: one meaning, many places.
CONVENTIONS = frozenset({'add_arguments', 'check', 'main', 'render', 'run'})

# Where the field has a word: see the glossary of docs/architecture.md.
OWN_WORDS = re.compile(
    r'\b(places|paces?|paced|pacing|tend(s|ed|ing)?|worn out|heed(s|ed)?|portraits?|unclaimed|'
    r'wish(es|ed)?|grants?|granted|told|obstacles?|troubles?|away|turns)\b',
    re.IGNORECASE,
)
PRAGMA = re.compile(r'  # (noqa|type: ignore)\b.*')  # ruff does not count it either
SPLIT_NAME = re.compile(r'_|(?<=[a-z])(?=[A-Z])')

# Where the rules are hard to see from the code; the first that a checkout has.
HARD_MODULES = {
    'SMTP session': ('mail/relay/session.py', 'mail/session.py'),
    'relay pool': ('mail/relay/pool.py', 'mail/smtp.py'),
    'sweep': ('delivery/sweeper.py', 'jobs/process_pending_emails.py'),
    'claims': ('db/claims.py',),
    'job runner': ('engine/job_runner.py', 'fleet/job_runner.py'),
}


class Measure(NamedTuple):
    """One line of the table."""

    name: str
    find: Callable[[House], Iterable[str]]


def functions_of(module: Module) -> Iterator[Function]:
    """Yield all functions of a module, methods and inner ones as well."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def modules_of_send_email(house: House) -> list[str]:
    """Return what one loads to read `send_email`."""
    return sorted(house.loaded_by('jobs.send_email'))


def functions_of_send_email(house: House) -> list[str]:
    """Return the public functions of these modules."""
    return [
        f'{name}.{node.name}'
        for name in modules_of_send_email(house)
        for node in house.modules[name].public
        if not isinstance(node, ast.ClassDef)
    ]


def long_modules(house: House) -> list[str]:
    """Return the modules with more than 300 lines, but for tests, which tell story after story."""
    return [
        f'{module.path} {len(module.lines)}'
        for module in house.modules.values()
        if module.room != 'tests' and len(module.lines) > MAX_MODULE_LINES
    ]


def long_functions(house: House) -> list[str]:
    """Return the functions of production with more than 45 lines."""
    return [
        f'{module.path}:{node.lineno} {node.name} {length}'
        for module in house.of_production()
        for node in functions_of(module)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def long_lines(house: House) -> list[str]:
    """Return the lines with more than 100 characters, those of tests and tools as well."""
    return [
        f'{module.path}:{number}'
        for module in house.modules.values()
        for number, line in enumerate(module.lines, 1)
        if len(PRAGMA.sub('', line)) > MAX_COLUMNS
    ]


def large_classes(house: House) -> list[str]:
    """Return the classes with 16 attributes or more: fields, and what methods assign to self."""
    return [
        f'{module.path}:{node.lineno} {node.name} {count}'
        for module in house.of_production()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and (count := len(_attributes(node))) > MAX_ATTRIBUTES
    ]


def _attributes(of: ast.ClassDef) -> set[str]:
    found = {
        node.target.id
        for node in of.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    for method in of.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(method):
                match node:
                    case ast.Attribute(value=ast.Name('self'), attr=name, ctx=ast.Store()):
                        found.add(name)
    return found


def modules_with_one_importer(house: House) -> list[str]:
    """Return the modules of production that one other module of production imports."""
    found = []
    for module in house.of_production():
        importers = house.importers[module.name]
        if len(importers) == 1:
            found.append(f'{module.name} by {next(iter(importers))}')
    return found


def names_defined_twice(house: House) -> list[str]:
    """Return the public classes and functions of which several modules have one of that name."""
    modules = defaultdict(set)
    for module in house.of_production():
        for node in module.public:
            modules[node.name].add(module.name)
    return [
        f'{name}: {", ".join(sorted(found))}'
        for name, found in sorted(modules.items())
        if len(found) > 1 and name not in CONVENTIONS
    ]


def modules_in_no_contract(house: House) -> list[str]:
    """Return the modules of production of which no rule says what they may import."""
    rooms = set(house.may_import or _rooms_of_import_linter(house))
    return [module.path for module in house.of_production() if module.room not in rooms]


def _rooms_of_import_linter(house: House) -> Iterator[str]:
    contracts: list[dict[str, list[str]]] = house.pyproject['tool']['importlinter']['contracts']  # type: ignore[assignment]
    for contract in contracts:
        yield from contract.get('source_modules', [])
        for layer in contract.get('layers', []):
            yield from re.split(r' *[|:] *', layer)


def functions_that_take_a_namespace(house: House) -> list[str]:
    """Return the functions that only a command line can call."""
    return [
        f'{module.path}:{node.lineno} {node.name}'
        for module in house.of_production()
        for node in functions_of(module)
        if 'Namespace' in ast.unparse(node.args)
    ]


def own_words_in_names(house: House) -> list[str]:
    """Return the modules, classes, functions, parameters and attributes named in our own words."""
    return [
        f'{module.path} {name}'
        for module in house.of_production()
        for name in sorted(_names(module))
        if OWN_WORDS.search(' '.join(SPLIT_NAME.split(name)))
    ]


def _names(module: Module) -> set[str]:
    names = {module.name.rpartition('.')[2]}
    for node in ast.walk(module.tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.arg():
                names.add(node.arg)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def own_words_in_prose(house: House) -> list[str]:
    """Return the comments and docstrings with our own words."""
    return [
        f'{module.path}:{line} {match[0]}'
        for module in house.of_production()
        for line, text in _prose(module)
        for match in OWN_WORDS.finditer(text)
    ]


def _prose(module: Module) -> Iterator[tuple[int, str]]:
    for token in _comments(module):
        yield token.start[0], token.string
    for node in ast.walk(module.tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and (text := ast.get_docstring(node)):
            yield getattr(node, 'lineno', 1), text


def _comments(module: Module) -> list[tokenize.TokenInfo]:
    tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
    return [token for token in tokens if token.type == tokenize.COMMENT]


def comments_where_it_is_hard(house: House) -> list[str]:
    """Return how many lines of 100 have a comment, for the modules where the rules are hard."""
    by_path = {module.path: module for module in house.modules.values()}
    found = []
    for name, paths in HARD_MODULES.items():
        for path in paths:
            if module := by_path.get(path):
                per_100 = 100 * len(_comments(module)) / len(module.lines)
                found.append(f'{name} ({path}) {per_100:.1f}')
                break
    return found


def files_that_name_relays(house: House) -> list[str]:
    """Return the files with the names `primary` and `backup`, but for primary keys."""
    word = re.compile(r'(?<![a-z])(primary|backup)(?![a-z])(?![ _]key)', re.IGNORECASE)
    return [module.path for module in house.of_production() if word.search(_code_of(module))]


def _code_of(module: Module) -> str:
    """Return the text without docstrings and comments."""
    lines = [*module.lines]
    for token in _comments(module):
        row, column = token.start
        lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(module.tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                last = node.end_lineno or node.lineno
                lines[node.lineno - 1 : last] = [''] * (last - node.lineno + 1)
    return '\n'.join(lines)


MEASURES = (
    Measure('modules loaded to read send_email', modules_of_send_email),
    Measure('public functions in them', functions_of_send_email),
    Measure('modules over 300 lines', long_modules),
    Measure('functions over 45 lines', long_functions),
    Measure('lines over 100 characters', long_lines),
    Measure('classes with 16 attributes or more', large_classes),
    Measure('modules with one importer', modules_with_one_importer),
    Measure('public names defined twice', names_defined_twice),
    Measure('modules in no contract', modules_in_no_contract),
    Measure('functions that take an argparse.Namespace', functions_that_take_a_namespace),
    Measure('names in words of our own', own_words_in_names),
    Measure('words of our own in prose', own_words_in_prose),
    Measure('files that name primary or backup', files_that_name_relays),
    Measure('files that list states', files_that_list_states),
)
