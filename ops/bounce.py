"""Take in messages that came back: bounces and complaints, from files or a pipe."""

import argparse
import asyncio
import sys
from pathlib import Path

from rich.console import Console

from actions.bounce import ReceivedReports, receive_message
from ops.answer import Answer
from ops.arguments import add_json
from ops.connect import Connections
from ops.output import print_table, say
from reporting.problems import Document, Problem, ProblemError
from reporting.wording import hide_recipient

# sysexits.h, which Postfix's pipe and procmail go by: 75 has them try again later.
TEMPORARY_FAILURE, NO_INPUT = 75, 66
MOST_BYTES = 1024 * 1024  # more is not looked at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        'files', nargs='*', default=['-'], metavar='FILE', help='a message each; -: stdin, default'
    )
    parser.add_argument(
        '--recipient', action='append', default=[], metavar='ADDRESS',
        help='whom its envelope was for, such as ${recipient} of Postfix',
    )  # fmt: skip
    parser.add_argument('--dry-run', action='store_true', help='only tell what it reports')
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Take in one message after the other."""
    settings, problems, messages = connections.settings, [], []
    for name in options.files:
        try:
            data = await asyncio.to_thread(_read, name)
        except OSError as error:
            what = f'{name} cannot be read: {error.strerror or error}'
            problems.append(Problem(what, 'see the path', exit_status=NO_INPUT))
            continue
        try:
            received = await receive_message(
                connections, data, options.recipient, settings.return_paths,
                settings.feedback_rules, dry_run=options.dry_run,
            )  # fmt: skip
        except ProblemError as error:
            remedy = 'give it again later'
            problems.append(Problem(error.problem.line, remedy, exit_status=TEMPORARY_FAILURE))
            break
        messages.append(_document(name, received))
    return Answer({'dry_run': options.dry_run, 'messages': messages}, problems)


def _read(name: str) -> bytes:
    if name != '-':
        with Path(name).open('rb') as file:
            return file.read(MOST_BYTES)
    data = sys.stdin.buffer.read(MOST_BYTES)
    while sys.stdin.buffer.read(MOST_BYTES):  # whoever writes it must not get SIGPIPE
        pass
    return data


def _document(name: str, received: ReceivedReports) -> Document:
    effects = {applied.email_id: applied.effect for applied in received.applied}
    return {
        'file': name,
        'new': received.new,
        'why_none': received.why_none,
        'reports': [
            {
                'kind': report.kind.value,
                'recipient': hide_recipient(report.recipient) if report.recipient else None,
                'enhanced_code': report.enhanced_code,
                'email_id': report.email_id,
                'message_id': report.message_id,
                'effect': effects.get(report.email_id) if report.email_id else None,
            }
            for report in received.reports
        ],
    }


def render(document: Document, console: Console) -> None:
    """Print what each message reports."""
    rows = [
        (message['file'], report['kind'], report['recipient'], report['enhanced_code'],
         report['email_id'] or report['message_id'], report['effect'])
        for message in document['messages']
        for report in message['reports']
    ]  # fmt: skip
    if rows:
        print_table(
            console, 'Came back', ('message', 'kind', 'recipient', 'code', 'e-mail', 'effect'), rows
        )
    for message in document['messages']:
        if message['why_none']:
            say(console, f'{message["file"]}: {message["why_none"]}; nothing was changed.')
    new = sum(message['new'] for message in document['messages'])
    known = len(rows) - new
    if document['dry_run']:
        say(console, 'Nothing was stored.')
    else:
        say(console, f'{new} stored{f", {known} known before" if known else ""}.')
