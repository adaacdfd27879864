"""docs/hardening.md: each row leads to the tests that show it, and every page it and the README
link to exists.
"""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCUMENT = ROOT / 'docs/hardening.md'
TEXT = DOCUMENT.read_text()
ROWS = [re.split(r'(?<!\\)\|', line)[1:-1] for line in TEXT.splitlines() if line.startswith('| ')]


def test_every_row_names_the_tests_that_show_it() -> None:
    assert len(ROWS) > 80
    assert {len(row) for row in ROWS} == {3}
    untested = [
        row[0]
        for row in ROWS
        if row[2] != ' tests ' and not re.search(r'\[test_\w+\]|`make \w+`', row[2])
    ]
    assert untested == []


def test_every_test_it_names_exists() -> None:
    named = set(re.findall(r'\[(test_\w+)\](?!:)', TEXT))
    defined = dict(re.findall(r'^\[(test_\w+)\]: (\S+)$', TEXT, re.MULTILINE))
    assert named == defined.keys()
    for name, path in defined.items():
        assert Path(path).stem == name
        assert (DOCUMENT.parent / path).is_file(), path


@pytest.mark.parametrize(
    'name', ['README.md', 'CHANGELOG.md', *(f'docs/{p.name}' for p in (ROOT / 'docs').glob('*.md'))]
)
def test_every_page_that_is_linked_exists(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r'\]\(([^)#\s]+)(?:#[^)]*)?\)', page.read_text()):
        if '://' not in link:
            assert (page.parent / link).exists(), link
