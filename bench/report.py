"""From measurements to a table: on the terminal, and between two marks in docs/performance.md."""

import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.contenders import BASELINE, CONTENDERS
from bench.rounds import Measurement

BEGIN = '<!-- measured: begin; written by python -m bench.run -->'
END = '<!-- measured: end -->'
FILE_WIDTH = 140  # where nobody's terminal says how wide
HEADINGS = ('what', 'e-mails/s', 'times Celery', 'worker CPU s per 1,000', 'times less CPU', 'PSS MB')


def rows(measurements: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """Return the table's rows, one per contender: medians, with the smallest and largest in brackets.

    Ratios are medians over the rounds of the ratio within the round, whose runs stood next to each other.
    """
    by_contender = {c.key: [m for m in measurements if m.contender == c.key] for c in CONTENDERS}
    baseline = by_contender[BASELINE]
    table: list[tuple[str, ...]] = []
    for contender in CONTENDERS:
        own = by_contender[contender.key]
        if not own:
            continue
        faster = [mine.emails_per_s / theirs.emails_per_s for mine, theirs in zip(own, baseline, strict=False)]
        cheaper = [theirs.cpu_s_per_1000 / mine.cpu_s_per_1000 for mine, theirs in zip(own, baseline, strict=False)]
        compare = bool(baseline) and own is not baseline
        table.append(
            (
                contender.title,
                spread([m.emails_per_s for m in own], '.0f'),
                spread(faster, '.1f') if compare else '',
                spread([m.cpu_s_per_1000 for m in own], '.2f'),
                spread(cheaper, '.1f') if compare else '',
                f'{statistics.median(m.peak_pss_bytes for m in own) / 1e6:.0f}' if own[0].peak_pss_bytes else 'unknown',
            )
        )
    return table


def spread(values: Sequence[float], form: str) -> str:
    """Format the median and, of several values, the extremes."""
    median = f'{statistics.median(values):{form}}'
    return median if len(values) == 1 else f'{median} ({min(values):{form}} to {max(values):{form}})'


def show(measurements: Sequence[Measurement]) -> None:
    """Print the table."""
    table = Table(*HEADINGS, title='medians (smallest to largest)')
    for row in rows(measurements):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(table)


def write(path: Path, measurements: Sequence[Measurement], command: str, facts: Sequence[str], note: str) -> None:
    """Replace what stands between the marks.

    Args:
        command: What was typed.
        facts: Machine and versions, a line each.
        note: What else a reader must know, or an empty string.
    Raises:
        ValueError: the marks are missing.
    """
    text = path.read_text(encoding='utf-8')
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f'{path} has lost its marks: {BEGIN} and {END}')
    emails = measurements[0].emails
    rounds = sum(m.contender == measurements[0].contender for m in measurements)
    lines = [
        f'Measured on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by `{command}`: {rounds} rounds of {emails:,} e-mails.',
        *([f'\n**{note}**'] if note else []),
        '',
        f'| {" | ".join(HEADINGS)} |',
        f'|{"---|" * len(HEADINGS)}',
        *(f'| {" | ".join(row)} |' for row in rows(measurements)),
        '',
        *(f'- {fact}' for fact in facts),
    ]
    path.write_text(before + BEGIN + '\n' + '\n'.join(lines) + '\n' + END + after, encoding='utf-8')
