"""The parsers of commands: quick to make, and helpful to who mistypes.

A command's arguments are declared when it is used, by its module, which is imported then: help and
mistakes need none of the drivers.
"""

import argparse
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

Declare = Callable[['CommandParser'], None]
N = TypeVar('N')

# Options of commands that are understood before their names, too.
ANYWHERE = ('--json', '--yes', '--dry-run')


class HelpText(argparse.HelpFormatter):
    """Paragraphs are filled; what has lines, such as examples, keeps them."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if '\n' in text else super()._fill_text(text, width, indent)


class CommandParser(argparse.ArgumentParser):
    """argparse's, of commands in groups that declare their arguments when they are used."""

    def __init__(
        self,
        *,
        declare: Declare | None = None,
        examples: Sequence[str] = (),
        tells_version: bool = False,
        **options: Any,
    ) -> None:
        """Make it.

        Args:
            declare: Adds the arguments, when the first words are parsed.
            examples: What follows the program's name, for the end of the help.
            tells_version: --version anywhere prints it, and nothing else is done.
            options: argparse's.
        """
        super().__init__(formatter_class=HelpText, **options)
        self._declare = declare
        self._examples = examples
        self._tells_version = tells_version
        if tells_version:
            self.add_argument('--version', action='store_true', help='print the version')
        self._commands: argparse._SubParsersAction[CommandParser] | None = None
        self._groups: Mapping[str, Collection[str]] = {}

    def add_commands(
        self, groups: Mapping[str, Collection[str]], **options: Any
    ) -> 'argparse._SubParsersAction[CommandParser]':
        """As add_subparsers; help shows the commands in these groups: title -> names."""
        self._groups = groups
        self._commands = self.add_subparsers(**options)
        return self._commands

    def declare(self) -> None:
        """Declare the arguments, once."""
        declare, self._declare = self._declare, None
        if declare is not None:
            declare(self)

    def declare_all(self) -> None:
        """Declare the arguments of every command below, too."""
        self.declare()
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - argparse has no other name for it
                for parser in action.choices.values():
                    parser.declare_all()

    def parse_known_args(  # type: ignore[override]  # argparse has overloads for namespaces
        self, args: Sequence[str] | None = None, namespace: N | None = None
    ) -> tuple[Any, list[str]]:
        """Parse; what is not known is refused here, where it is known what was meant."""
        self.declare()
        words, rest = _split(sys.argv[1:] if args is None else args)
        if self._tells_version and '--version' in words:
            self._print_version()
        moved = [word for word in words if word in ANYWHERE]
        words = [word for word in words if word not in ANYWHERE]
        self._refuse_unknown(words)
        options, unknown = super().parse_known_args([*words, *moved, *rest], namespace)
        if unknown:
            self._refuse(unknown)
        return options, unknown

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """Refuse an unknown option before its value is taken for something else."""
        if any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in self._actions):
            return  # words of other parsers, or of nobody
        known = self._option_string_actions
        names = [word.partition('=')[0] for word in words if word.startswith('--')]
        unknown = [name for name in names if not any(word.startswith(name) for word in known)]
        if unknown:
            self._refuse(unknown)

    def _print_version(self) -> NoReturn:
        from configuration.version import program_version  # noqa: PLC0415 - only when asked

        print(f'email-worker {program_version()}')
        self.exit()

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        known = [word for action in self._actions for word in action.option_strings]
        meant = did_you_mean(unknown[0].partition('=')[0], known)
        self.error(f'unrecognized arguments: {" ".join(unknown)}{meant}')

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = action.choices
        if choices is None or value in choices:
            return
        words = [str(word) for word in choices]
        meant = did_you_mean(str(value), words)
        hint = meant or f': choose from {", ".join(words)}'
        what = 'command' if action is self._commands else 'choice'
        raise argparse.ArgumentError(action, f'invalid {what} {value!r}{hint}')

    def format_help(self) -> str:
        """Return the help: with groups of commands, and examples."""
        self.declare()
        self.epilog = self.epilog or self._examples_text()
        if self._commands is None:
            return super().format_help()
        listed = {action.dest: action for action in self._commands._choices_actions}  # noqa: SLF001 - argparse's own way to show them
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for title, names in self._groups.items():
            _add_section(formatter, title, [listed[name] for name in names])
        options = [action for action in self._actions if action.option_strings]
        _add_section(formatter, 'options', options)
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _examples_text(self) -> str | None:
        lines = [f'  {self.prog} {example}'.rstrip() for example in self._examples]
        return '\n'.join(('examples:', *lines)) if lines else None


def _add_section(
    formatter: argparse.HelpFormatter, title: str, actions: Iterable[argparse.Action]
) -> None:
    formatter.start_section(title)
    formatter.add_arguments(actions)
    formatter.end_section()


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what may be options, and what follows `--`."""
    end = words.index('--') if '--' in words else len(words)
    return list(words[:end]), list(words[end:])


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return the end of a message: what may have been meant, or nothing."""
    from difflib import get_close_matches  # noqa: PLC0415 - only who mistypes needs it

    close = get_close_matches(word, known, n=2)
    return f'; did you mean {" or ".join(close)}?' if close else ''


# How a program is run by Python, and by the command that may be all that a server has.
BY_COMMAND = (
    ('python -m ops', 'email-worker ops'),
    ('python -m db.migrate', 'email-worker migrate'),
    ('arq worker.WorkerSettings', 'email-worker run'),
    ('arq worker.HighPriority', 'email-worker run high_priority'),
    ('arq worker.LowPriority', 'email-worker run low_priority'),
)


def is_typed_as_command() -> bool:
    """Whether this is `email-worker ...`."""
    return sys.argv[0].startswith('email-worker ')


def command_name(otherwise: str) -> str:
    """Return what was typed: `email-worker ops`, or otherwise, how Python runs the module."""
    return sys.argv[0] if is_typed_as_command() else otherwise


def as_typed(text: str) -> str:
    """Return a text with the programs that it names called as this one was."""
    if is_typed_as_command():
        for by_python, by_command in BY_COMMAND:
            text = text.replace(by_python, by_command)
    return text
