"""Everything that is held on one person's address, as JSON."""

import argparse
import sys
from pathlib import Path
from typing import TextIO

from rich.console import Console

from actions.export import export_document
from actions.safety import RequestError
from ops.answer import Answer
from ops.connect import Connections
from ops.output import say
from ops.suppress import suppression
from reporting.problems import Document


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('address', type=suppression, metavar='ADDRESS')
    parser.add_argument(
        '--output', type=Path, metavar='FILE', help='a new file, readable by you alone; else stdout'
    )


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Write one JSON document, an entry at a time: no export is held in memory."""
    options.json = False
    if options.output is None:
        await _write(connections, options.address, sys.stdout)
        return Answer({}, streamed=True)
    try:
        options.output.touch(mode=0o600, exist_ok=False)
        with options.output.open('w', encoding='utf-8') as file:
            entries = await _write(connections, options.address, file)
    except OSError as error:
        what = f'{options.output}: {error.strerror}'
        raise RequestError(what, 'give a new file in a folder that you may write to') from error
    return Answer({'export': str(options.output), 'entries': entries})


async def _write(connections: Connections, address: str, file: TextIO) -> int:
    entries = -2  # the first part and the last are none
    async for part in export_document(connections, address):
        file.write(part)
        entries += 1
    return entries


def render(document: Document, console: Console) -> None:
    """Say where it was written."""
    say(console, f'{document["entries"]} entries written to {document["export"]}.')
