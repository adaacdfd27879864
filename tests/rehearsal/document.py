"""docs/migration.md as a list of commands.

What is typed in which section, and what the document says it answers.

After a `#` behind a command: words of the answer in quotes, and in brackets the exit status if it
is not 0.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIGRATION = ROOT / 'docs' / 'migration.md'
LINE = re.compile(r'(?P<command>.*?)(?:\s+# (?:\[(?P<status>\d+)\] )?(?P<told>.*))?')
BLOCK = re.compile(r'^(?:#+ ([^\n]+)|```(\w*)\n(.*?)^```)$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One line of a block, and what is said about it."""

    section: str
    text: str
    status: int
    claims: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def commands_of(document: str) -> Iterator[Command]:
    """Read every command of every `sh` block; a line that begins with # is a remark."""
    section = ''
    for heading, language, body in BLOCK.findall(document):
        section = heading or section
        for text in body.splitlines() if language == 'sh' else ():
            told = LINE.fullmatch(text)
            if told and told['command'] and not told['command'].startswith('#'):
                claims = tuple(re.findall(r'"([^"]+)"', told['told'] or ''))
                yield Command(section, told['command'], int(told['status'] or 0), claims)


def read_commands() -> dict[str, list[Command]]:
    """Return the commands of docs/migration.md by section."""
    sections: dict[str, list[Command]] = {}
    for command in commands_of(MIGRATION.read_text()):
        sections.setdefault(command.section, []).append(command)
    return sections
