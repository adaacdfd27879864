"""The house: who imports whom is in pyproject.toml ([tool.house.imports]), for every module."""

import re
import subprocess

import pytest

from dev.house import House, Module, read_house
from dev.map import measures_table, rooms_table
from dev.measures import large_classes, long_functions, long_modules
from tests.conftest import ROOT

HOUSE = read_house(ROOT)
RULES = HOUSE.may_import
LAYERS = next(
    [re.split(r' *[|:] *', layer) for layer in contract['layers']]
    for contract in HOUSE.pyproject['tool']['importlinter']['contracts']
    if contract['type'] == 'layers'
)


def rooms_open_to(module: Module) -> set[str]:
    """Return the rooms that a module may import: its own, those of its row and of its room's."""
    return {module.room, *RULES[module.room], *RULES.get(module.name, ())}


def test_every_room_has_its_row_and_every_row_its_room():
    assert {module.room for module in HOUSE.of_production()} == {
        name for name in RULES if '.' not in name
    }
    assert {name for name in RULES if '.' in name} <= HOUSE.modules.keys()


def test_no_module_imports_what_its_room_may_not():
    wrong = [
        f'{module.name} -> {imported}'
        for module in HOUSE.of_production()
        for imported in sorted(HOUSE.imports[module.name])
        if HOUSE.modules[imported].room not in rooms_open_to(module)
    ]
    assert wrong == [], 'see [tool.house.imports] in pyproject.toml'


def test_layers_of_import_linter_say_the_same():
    height = {room: -number for number, layer in enumerate(LAYERS) for room in layer}
    upwards = [
        f'{room} -> {imported}'
        for room, rooms in RULES.items()
        for imported in rooms
        if room in height and imported in height and height[imported] >= height[room]
    ]
    assert upwards == []


def test_every_package_is_known_to_import_linter():
    packages = {module.room for module in HOUSE.modules.values() if '.' in module.name}
    roots = set(HOUSE.pyproject['tool']['importlinter']['root_packages'])
    assert packages - {'bench', 'examples', 'tests'} == roots


@pytest.mark.parametrize('measure', [long_modules, long_functions, large_classes])
def test_modules_functions_and_classes_keep_within_their_limits(measure):
    assert measure(HOUSE) == []


@pytest.fixture
def small_house(tmp_path) -> House:
    """A checkout with a room, a module at the top, and faults."""
    (tmp_path / 'jobs').mkdir()
    (tmp_path / 'jobs/__init__.py').write_text('')
    (tmp_path / 'jobs/send_email.py').write_text(
        'import settings\n\n\ndef send_email(portrait):\n    return ["sending", "cancelled"]\n'
    )
    (tmp_path / 'settings.py').write_text(
        'class Settings:\n    primary = "sending"\n    ended = "cancelled"\n'
    )
    (tmp_path / 'pyproject.toml').write_text('[tool.house.imports]\njobs = ["settings"]\n')
    subprocess.run(['git', 'init', '-q', tmp_path], check=True)
    return read_house(tmp_path)


def test_map_counts_what_a_checkout_has(small_house):
    lines = [line.split(maxsplit=1) for line in measures_table(small_house, details=False)]
    counts = {line[1]: int(line[0]) for line in lines if line[0].isdigit()}
    assert counts['modules loaded to read send_email'] == 2
    assert counts['public functions in them'] == 1
    assert counts['modules in no contract'] == 1
    assert counts['modules with one importer'] == 1
    assert counts['names in words of our own'] == 1
    assert counts['files that name primary or backup'] == 1
    assert counts['files that list states'] == 1
    assert counts['functions over 45 lines'] == 0


def test_map_shows_rooms_with_their_importers(small_house):
    text = '\n'.join(rooms_table(small_house))
    assert 'settings: 1 modules, 3 lines\n    imports      nothing\n    imported by  jobs' in text
