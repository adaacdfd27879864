"""From results to documents.

The table of bars, and the numbers of each measure, between two marks.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measures.measure import Measure, table
from bench.store import Result

BEGIN = '<!-- {name}: begin; written by python -m bench.run -->'
END = '<!-- {name}: end -->'
BUSY = 0.1
RESULTS = '../bench/results/'  # as docs/ links it
ELSEWHERE = ('scaling',)  # shown in docs/scaling.md
WORDS = {True: 'yes', False: '**no**', None: 'not measured'}


def bars(measures: Sequence[Measure], results: Mapping[str, Result]) -> list[str]:
    """Return the table of bars."""
    rows = []
    for measure in measures:
        result = results.get(measure.key)
        if result is None:
            continue
        for bar in measure.bars(result.data):
            why = (
                f', [profile]({RESULTS}{result.profile})'
                if result.profile and bar.met is False
                else ''
            )
            rows.append((bar.measure, bar.bar, bar.measured, WORDS[bar.met] + why))
    return table(('measure', 'bar', 'measured: median (smallest to largest)', 'met'), rows)


def write(path: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between the marks of this name.

    Raises:
        ValueError: the marks are missing.
    """
    begin, end = BEGIN.format(name=name), END.format(name=name)
    text = path.read_text(encoding='utf-8')
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f'{path} has lost its marks: {begin} and {end}')
    path.write_text('\n'.join([before + begin, *lines, end + after]), encoding='utf-8')


def summary(measures: Sequence[Measure], results: Mapping[str, Result]) -> list[str]:
    """Return what docs/performance.md shows: warnings, and the bars."""
    taken = [results[measure.key] for measure in measures if measure.key in results]
    return [*_warnings(measures, taken), *bars(measures, results)]


def details(measures: Sequence[Measure], results: Mapping[str, Result]) -> list[str]:
    """Return the rest: one section a measure, the machine."""
    taken = [results[measure.key] for measure in measures if measure.key in results]
    lines = []
    for measure in measures:
        if measure.key in results and measure.key not in ELSEWHERE:
            lines += [*_section(measure, results[measure.key]), '']
    lines += ['## Machine and versions', '']
    for facts, group in itertools.groupby(taken, key=lambda result: tuple(result.facts)):
        keys = ', '.join(result.key for result in group)
        lines += [f'For {keys}:', '', *(f'- {fact}' for fact in facts), '']
    return lines


def _warnings(measures: Sequence[Measure], taken: Sequence[Result]) -> list[str]:
    busy = [f'{result.key} {result.busy:.0%}' for result in taken if result.busy > BUSY]
    few = [r.key for r in taken for m in measures if m.key == r.key and r.rounds < m.rounds]
    lines = []
    if busy:
        lines += [
            (
                '**Preliminary: other programs used the machine when these began: '
                f'{", ".join(busy)}.**'
            ),
            '',
        ]
    if few:
        lines += [f'**Preliminary: fewer rounds than there should be: {", ".join(few)}.**', '']
    return lines + [
        f'**{note}**\n' for note in dict.fromkeys(result.note for result in taken if result.note)
    ]


def _section(measure: Measure, result: Result) -> list[str]:
    rounds = f'{result.rounds} rounds, ' if result.rounds > 1 else ''
    told = f'{result.at}, `{result.command}`, {rounds}commit {result.commit}.'
    return [f'## {measure.title}', '', told, '', *measure.details(result.data)]
