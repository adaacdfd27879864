"""The two forms of an answer: a JSON document, or tables for people. Neither lets data steer the terminal."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from logs import ADDRESS

PIPE_WIDTH = 500  # rows stay lines
DOMAIN = re.compile(r'@([\w.-]+)')


def as_json(document: dict[str, Any]) -> str:
    """Encode a document; times as ISO 8601, everything else that JSON does not know as its text."""
    return json.dumps(document, default=lambda v: v.isoformat() if isinstance(v, datetime) else str(v), indent=2)


def make_console() -> Console:
    """Return where tables go: as wide as the terminal, or wide enough for a pipe, never interpreting what it prints."""
    return Console(
        file=sys.stdout,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if sys.stdout.isatty() else PIPE_WIDTH,
    )


def print_table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a titled table, or that there is nothing in it."""
    table = Table(
        *columns,
        title=title,
        title_justify='left',
        title_style='bold',
        box=None,
        pad_edge=False,
        show_header=any(columns),
    )
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    if table.row_count:
        console.print(table)
    else:
        console.print(f'{title}: none', style='bold')
    console.print()


def cell(value: Any) -> str:
    """Return a value as one line of harmless text: relays and senders choose what is in replies and subjects."""
    match value:
        case None:
            return '-'
        case datetime():
            return value.astimezone(UTC).strftime('%Y-%m-%d %H:%M:%SZ')
        case _:
            return ''.join(c if c.isprintable() else ' ' for c in str(value))


def length(seconds: float | None) -> str:
    """Return a length of time for people: 42 s, 5 min, 3.2 h, 4 d."""
    if seconds is None:
        return '-'
    size = abs(seconds)
    if size < 120:
        return f'{seconds:.0f} s'
    if size < 7200:
        return f'{seconds / 60:.0f} min'
    return f'{seconds / 3600:.1f} h' if size < 172_800 else f'{seconds / 86400:.0f} d'


def megabytes(size_bytes: int) -> str:
    """Return a size in memory for people."""
    return f'{size_bytes / 2**20:.0f} MiB'


def percent(rate: float | None) -> str:
    """Return a share of one for people."""
    return '-' if rate is None else f'{rate:.1%}'


def reply_code(row: Mapping[str, Any]) -> str | None:
    """Return what a relay replied in digits: 550 5.1.1, or as much of it as there is."""
    return ' '.join(str(row[name]) for name in ('smtp_code', 'enhanced_code') if row[name]) or None


def fault(detail: Any) -> str:
    """Return what a duty that failed left, see db.reports.read_duties, in one short line without addresses."""
    told = detail.get('error', detail) if isinstance(detail, dict) else detail
    return (hide_addresses(str(told or '')) or '')[:200]


def hide_recipient(recipient: str) -> str:
    """Return a recipient field without names and local parts."""
    return ', '.join(f'***@{domain}' for domain in DOMAIN.findall(recipient)) or '***'


def hide_addresses(text: str | None) -> str | None:
    """Return a relay's reply or an error without the local parts it quotes."""
    return ADDRESS.sub('***@', text) if text else text
