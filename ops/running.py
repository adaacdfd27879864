"""Running a command once it is parsed: on its own connections, audited, its answer printed."""

import argparse
import asyncio
import io
import sys

from logs import configure_logs
from ops.answer import Answer
from ops.changes import has_changed, note_change
from ops.commands import CommandModule
from ops.connect import Connections
from ops.output import make_console, print_problems, say
from reporting.problems import Document, ProblemError
from reporting.seen_at import with_page
from reporting.wording import as_json
from settings import Settings, load_settings

GO_ON_THEMSELVES = ('failed', 'find', 'qshape', 'retry')  # they say how to see more
AUDITED_BY_THEMSELVES = ('token', 'erase', 'send', 'edit')  # before they change anything


async def answer(settings: Settings, command: CommandModule, options: argparse.Namespace) -> Answer:
    """Run a command on its own connections."""
    connections = Connections(settings)
    try:
        given = await command.run(connections, options)
        if has_changed(options, given) and options.command not in AUDITED_BY_THEMSELVES:
            await note_change(connections, options, given)
    except ProblemError as error:
        return Answer({}, [error.problem])
    else:
        return given
    finally:
        connections.progress.end()
        connections.steps.end()
        await connections.close()


def run_command(
    command: CommandModule, options: argparse.Namespace, *, needs_settings: bool = True
) -> int:
    """Read the settings, run, print. Returns the exit status.

    Args:
        needs_settings: False: the command reads them itself, whatever they are.
    """
    settings = load_settings(with_drivers=False) if needs_settings else Settings.model_construct()
    configure_logs(settings.log_level, settings.log_format)
    given = asyncio.run(answer(settings, command, options))
    given.problems = [with_page(each, settings.web_public_url) for each in given.problems]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')
    try:
        _print(command, options, given)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads the answer: what was changed is told all the same
        if has_changed(options, given) and not given.streamed:
            command.render(given.document, make_console(sys.stderr))
            print_problems(options.command, given.problems)
        raise
    if given.problems:
        print_problems(options.command, given.problems)
    return given.exit_status


def _print(command: CommandModule, options: argparse.Namespace, given: Answer) -> None:
    if given.streamed:
        return
    if options.json:
        troubles = [problem.as_document() for problem in given.problems]
        print(as_json(given.document | {'troubles': troubles}))
    elif given.document:
        console = make_console()
        command.render(given.document, console)
        if options.command not in GO_ON_THEMSELVES and is_cut(options, given.document):
            say(console, f'No more than {options.limit} are shown: --limit N shows more.')


def is_cut(options: argparse.Namespace, document: Document) -> bool:
    """Whether a list of a document is as long as --limit allows: there may be more."""
    limit = getattr(options, 'limit', None)
    return any(isinstance(part, list) and len(part) == limit for part in document.values())
