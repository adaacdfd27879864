"""A public name has one meaning in the whole program.

A reader who has met it need not look again.
"""

import ast
from collections import defaultdict

from tests.conftest import ROOT

NO_PROGRAM = {'bench', 'deploy', 'dev', 'docs', 'examples', 'tests'}
# What every module of a kind has under the same name, and where those modules are.
INTERFACES = {
    'add_arguments': ('ops/',),  # see ops.__main__.CommandModule
    'run': ('ops/',),
    'render': ('ops/',),
    'adapt': ('mail_outbox/adapters/',),  # see mail_outbox.adapters.driver_of
    'check': ('reporting/checks/', 'ops/celery/check.py'),  # see ops.doctor.CHECKS
    'main': ('',),  # of what is started as a program
}
# Defined twice all the same, and why.
EXCEPTIONS = {
    'attempts': 'those of an e-mail for applications (mail_outbox), a limit of them (ops)',
    'render': 'a message from a row for applications (mail_outbox), a document for a person (ops)',
    'check': 'a message before it is queued (mail_outbox), one thing the doctor looks at',
}


def defined() -> dict[str, list[str]]:
    """Public functions and classes at the top of modules: name -> the files that define it."""
    found = defaultdict(list)
    for path in sorted(ROOT.rglob('*.py')):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith('.') or name.split('/')[0] in NO_PROGRAM:
            continue
        for node in ast.parse(path.read_text()).body:
            is_named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            is_overload = is_named and 'overload' in map(ast.unparse, node.decorator_list)
            if is_named and not is_overload and not node.name.startswith('_'):
                found[node.name].append(name)
    return found


def of_no_interface(name: str, files: list[str]) -> list[str]:
    return [file for file in files if not file.startswith(INTERFACES.get(name, ('-',)))]


def test_no_public_name_has_two_meanings():
    twice = {
        name: files
        for name, files in defined().items()
        if len(files) > 1 and of_no_interface(name, files) and name not in EXCEPTIONS
    }
    assert twice == {}


def test_no_exception_outlives_its_reason():
    found = defined()
    assert [name for name in EXCEPTIONS if len(found[name]) < 2] == []
    assert [name for name in INTERFACES if len(found[name]) < 2] == []
