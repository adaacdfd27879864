"""The map of the program: `python -m dev.map [CHECKOUT]`, or `make map`.

Prints the measures, then the rooms with their modules: lines, and by how many others each is
imported. Two checkouts can be compared, since only their text is read.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from dev.house import House, Module, read_house
from dev.measures import MEASURES, comments_where_it_is_hard

ROOT = Path(__file__).parent.parent


def measures_table(house: House, *, details: bool) -> Iterator[str]:
    """Yield a line for each measure, and one for each of its places if wanted."""
    production = list(house.of_production())
    yield f'{len(production):6}  modules in production'
    yield f'{sum(len(module.lines) for module in production):6}  lines in them'
    for measure in MEASURES:
        places = list(measure.find(house))
        yield f'{len(places):6}  {measure.name}'
        if details:
            yield from (f'            {place}' for place in places)
    yield '        comments per 100 lines where it is hard:'
    yield from (f'            {line}' for line in comments_where_it_is_hard(house))


def rooms_table(house: House) -> Iterator[str]:
    """Yield the rooms, what they import and who imports them, and their modules."""
    rooms: dict[str, list[Module]] = defaultdict(list)
    for module in house.of_production():
        rooms[module.room].append(module)
    for room, modules in sorted(rooms.items()):
        imported = {house.modules[n].room for m in modules for n in house.imports[m.name]}
        importers = {house.modules[n].room for m in modules for n in house.importers[m.name]}
        lines = sum(len(module.lines) for module in modules)
        yield ''
        yield f'{room}: {len(modules)} modules, {lines} lines'
        yield f'    imports      {_listed(imported - {room})}'
        yield f'    imported by  {_listed(importers - {room})}'
        for module in modules:
            count = len(house.importers[module.name])
            yield f'    {len(module.lines):5} lines {count:4} importers  {module.name}'


def _listed(rooms: set[str]) -> str:
    return ', '.join(sorted(rooms)) or 'nothing'


def main() -> None:
    """Print the map."""
    parser = argparse.ArgumentParser(prog='python -m dev.map', description=__doc__)
    parser.add_argument('checkout', nargs='?', type=Path, default=ROOT, help='a Git work tree')
    parser.add_argument('--details', action='store_true', help='print what each measure counts')
    parser.add_argument('--measures', action='store_true', help='print no rooms')
    options = parser.parse_args()
    house = read_house(options.checkout)
    print(*measures_table(house, details=options.details), sep='\n')
    if not options.measures:
        print(*rooms_table(house), sep='\n')


if __name__ == '__main__':
    main()
