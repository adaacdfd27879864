"""docs/deployment.md as its reader types it: one command after the other, by section."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEPLOYMENT = Path(__file__).resolve().parents[2] / 'docs' / 'deployment.md'
BLOCK = re.compile(r'^(?:#+ ([^\n]+)|```(\w*)\n(.*?)^```)$', re.MULTILINE | re.DOTALL)
HERE_DOCUMENT = re.compile(r"<<'(\w+)'")


@dataclass(frozen=True)
class Command:
    """What is typed before the next prompt: a line, with the lines of its here-document."""

    section: str
    text: str


def commands_of(document: str) -> Iterator[Command]:
    """Read every command of every `sh` block."""
    section = ''
    for heading, language, body in BLOCK.findall(document):
        section = heading or section
        if language != 'sh':
            continue
        lines = iter(body.splitlines())
        for line in lines:
            text = line
            if opened := HERE_DOCUMENT.search(line):
                text = '\n'.join([line, *_until(lines, opened[1])])
            if text and not text.startswith('#'):
                yield Command(section, text)


def _until(lines: Iterator[str], end: str) -> Iterator[str]:
    for line in lines:
        yield line
        if line == end:
            return


COMMANDS = list(commands_of(DEPLOYMENT.read_text()))
