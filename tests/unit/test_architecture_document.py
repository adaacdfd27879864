"""docs/architecture.md and CONTRIBUTING.md: what they name is there."""

import re

import pytest

from dev.house import read_house
from ops.__main__ import make_parser
from tests.conftest import ROOT

ARCHITECTURE = (ROOT / 'docs/architecture.md').read_text()
CONTRIBUTING = (ROOT / 'CONTRIBUTING.md').read_text()
DOCUMENTS = {'docs/architecture.md': ARCHITECTURE, 'CONTRIBUTING.md': CONTRIBUTING}
WAY = re.findall(r'^\| .* \| `([\w/]+\.py)` \| `(\w+)` \|$', ARCHITECTURE, re.MULTILINE)
OF_THE_READER = {'../other'}


def paths_in(text: str) -> set[str]:
    """Return the files and folders of ours that a text names, but for those with a NAME
    to choose.
    """
    words = set(re.findall(r'[\w./-]+', ' '.join(re.findall(r'`([^`\n]+)`', text))))
    blocks = ' '.join(re.findall(r'^```sh\n(.*?)^```', text, re.MULTILINE | re.DOTALL))
    words |= set(re.findall(r'\btests/[\w./]+', blocks))
    named = {word for word in words if '/' in word or re.search(r'\.(py|md|toml|txt|yml)$', word)}
    return {word for word in named if 'NAME' not in word} - OF_THE_READER


@pytest.mark.parametrize('name', DOCUMENTS)
def test_every_path_it_names_exists(name):
    named = paths_in(DOCUMENTS[name])
    assert len(named) > 25
    assert {path for path in named if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize('name', DOCUMENTS)
def test_every_page_it_links_exists(name):
    for link in re.findall(r'\]\(([^)#\s]+)', DOCUMENTS[name]):
        assert ((ROOT / name).parent / link).is_file(), link


@pytest.mark.parametrize(('path', 'function'), WAY)
def test_every_step_of_an_e_mail_is_a_function_of_its_file(path, function):
    assert re.search(rf'^ *(async )?def {function}\(', (ROOT / path).read_text(), re.MULTILINE)


def test_an_e_mails_way_is_told_in_the_order_of_its_file():
    assert len(WAY) > 15
    steps = re.findall(r'^\| \*\*([a-z ]+)\*\*', ARCHITECTURE, re.MULTILINE)
    first_lines = (ROOT / 'jobs/send_email.py').read_text().split('"""')[1]
    in_file = re.search(r'\n(claim -> [^.]+)\.', first_lines)[1].replace('\n', ' ').split(' -> ')
    assert steps == in_file


def test_every_room_has_its_paragraph():
    rooms = {module.room for module in read_house(ROOT).of_production()}
    named = set(re.findall(r'\*\*`(\w+)(?:/|\.py)`\*\*', ARCHITECTURE)) | {'configuration'}
    assert named == rooms


def test_every_command_of_operators_is_there():
    commands = set(re.findall(r'`ops ([a-z]+)', ARCHITECTURE + CONTRIBUTING))
    assert commands
    for command in commands:
        assert f'{command}' in make_parser().format_help()
