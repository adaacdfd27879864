"""Everything about one e-mail: its row, attempts and attachments, and what happens next."""

import argparse
import asyncio
from functools import partial
from typing import Any

from rich.console import Console

from db import reports
from db.feedback import read_feedback
from logs import hide_addresses
from ops.answer import Answer
from ops.arguments import add_json, email_id
from ops.connect import Connections
from ops.output import print_table, say
from reporting.explain import no_such_email, read_attached
from reporting.live import ask_alive
from reporting.next_step import next_step, where_now
from reporting.problems import Document, Problem, ProblemError
from reporting.servers import answer_or_note
from reporting.wording import cell, hide_recipient, length, reply_code

CONTENT = ('body_text', 'body_html', 'template_data')
ADDRESSES = (
    'recipient',
    'cc',
    'bcc',
    'reply_to',
    'from_address',
    'sender_address',
    'envelope_from',
)
PERSONAL = ('smtp_response', 'last_error', 'feedback', 'reply', 'error')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('id', type=email_id, metavar='ID')
    parser.add_argument(
        '--content', action='store_true', help='bodies and template data too; they may hold secrets'
    )
    parser.add_argument(
        '--show-recipients', action='store_true', help='whole addresses instead of domains'
    )
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Read the row first; Redis and MongoDB add to it when they answer."""
    email = await connections.ask_postgres(
        partial(reports.read_email, email_id=options.id, with_content=options.content)
    )
    if email is None:
        raise ProblemError(await no_such_email(connections, options.id))
    problems: list[Problem] = []
    attempts, template, fleet, attachments, feedback = await asyncio.gather(
        connections.ask_postgres(partial(reports.read_attempts, email_id=options.id)),
        _read_template(connections, email['template_id'], with_content=options.content),
        answer_or_note(connections.ask_redis(ask_alive), problems),
        read_attached(connections, email, problems),
        connections.ask_postgres(partial(read_feedback, email_id=options.id)),
    )
    workers, alive = fleet or ([], None)
    step = next_step(email, has_worker=alive)
    now = where_now(email, workers) if email['status'] == 'sending' else None
    for name in ('read_at',) if options.content else ('read_at', *CONTENT):
        del email[name]
    if not options.show_recipients:
        _hide(email)
        for made in attempts:
            _hide(made)
        for report in feedback:
            report['recipient'] = report['recipient'] and hide_recipient(report['recipient'])
            report['diagnostic'] = hide_addresses(report['diagnostic'])
    document = {
        'email': email,
        'attempts': attempts,
        'feedback': feedback,
        'template': template,
        'attachments': attachments,
        'now': now,
    }
    return Answer(document | {'next': step}, problems)


async def _read_template(
    connections: Connections, template_id: str | None, *, with_content: bool
) -> Document | None:
    """Return the template; one that does not exist has only its id."""
    if template_id is None:
        return None
    reading = partial(reports.read_template, template_id=template_id, with_content=with_content)
    return await connections.ask_postgres(reading) or {'id': template_id, 'missing': True}


def _hide(row: dict[str, Any]) -> None:
    """Take the addresses out of a row or an attempt."""
    for name in PERSONAL:
        if name in row:
            row[name] = hide_addresses(row[name])
    if 'recipient' in row:
        for name in ADDRESSES:
            row[name] = hide_recipient(row[name]) if row[name] else row[name]
        # Who may write to the table may write anything: what is no object is only named.
        for name, reported in (('headers', _names), ('recipient_outcomes', _outcomes)):
            if row[name] is not None:
                is_known = isinstance(row[name], dict) or reported is _names
                row[name] = (
                    reported(row[name]) if is_known else f'no object: {type(row[name]).__name__}'
                )


def _names(headers: Any) -> list[str] | str:
    if isinstance(headers, dict):
        return sorted(headers)
    if isinstance(headers, list):
        return [str(pair[0]) if isinstance(pair, list) and pair else '?' for pair in headers]
    return f'no object: {type(headers).__name__}'


def _outcomes(recipients: dict[str, Any]) -> list[list[str | None]]:
    return [
        [
            hide_recipient(address),
            *(
                hide_addresses(str(part))
                for part in (reported if isinstance(reported, list) else [reported])
            ),
        ]
        for address, reported in recipients.items()
    ]


def render(document: Document, console: Console) -> None:
    """Print the tables, the sentence last."""
    email = document['email']
    is_sending = email['status'] == 'sending'
    # The time that a row in `sending` was due at says nothing more of what comes.
    unsaid = (*CONTENT, 'next_retry_at') if is_sending else CONTENT
    if not email['is_emptied']:
        unsaid = (*unsaid, 'is_emptied')
    plain = (
        (name, value)
        for name, value in email.items()
        if name not in unsaid and value not in (None, [], {})
    )
    print_table(
        console,
        f'E-mail {email["id"]}',
        ('', ''),
        ((name.replace('_', ' '), value) for name, value in plain),
    )
    _render_attempts(
        document['attempts'], console, under_way=email['attempts'] if is_sending else None
    )
    if document['feedback']:
        _render_feedback(document['feedback'], console)
    _render_content(document, console)
    if now := document['now']:
        rows = [('worker', now['worker']), ('phase', now['phase']), ('relay', now['relay']),
                ('since', length(now['since_s'])),
                ('told', f'{length(now["told_s"])} ago')]  # fmt: skip
        print_table(console, 'Now', ('', ''), rows)
    say(console, cell(document['next']))
    if email['status'] not in ('sent', 'cancelled'):
        say(console, f'`python -m ops explain {email["id"]}` says what stands in its way.')


def _render_content(document: Document, console: Console) -> None:
    """Print what it is made of."""
    if template := document['template']:
        rows = [
            (name.replace('_', ' '), value) for name, value in template.items() if value is not None
        ]
        print_table(console, 'Template', ('', ''), rows)
    if document['attachments'] is not None:
        print_table(
            console,
            'Attachments',
            ('name', 'type', 'cid', 'bytes'),
            (
                (a.get('filename'), a.get('content_type'), a.get('cid'), a.get('size_bytes'))
                for a in document['attachments']
            ),
        )
    for name in CONTENT:
        if document['email'].get(name):
            say(console, f'{name}:', style='bold')
            say(console, '\n'.join(map(cell, document['email'][name].splitlines())))
            say(console)


def _render_feedback(feedback: list[Document], console: Console) -> None:
    print_table(
        console,
        'Came back',
        ('at', 'kind', 'recipient', 'by', 'code', 'effect', 'diagnostic'),
        (
            (f['reported_at'] or f['received_at'], f['kind'], f['recipient'], f['source'],
             f['enhanced_code'], f['effect'] or 'not yet', f['diagnostic'])
            for f in feedback
        ),
    )  # fmt: skip


def _render_attempts(attempts: list[Document], console: Console, *, under_way: int | None) -> None:
    if attempts or under_way is None:
        print_table(
            console,
            'Attempts',
            ('attempt', 'at', 'took', 'worker', 'outcome', 'phase', 'relay', 'code',
             'reply or error'),
            (
                (a['attempt'], a['started_at'],
                 None if a['duration_ms'] is None else f'{a["duration_ms"]} ms',
                 a['worker'], a['outcome'], a['phase'], a['relay'], reply_code(a),
                 a['reply'] or a['error'])
                for a in attempts
            ),
        )  # fmt: skip
    if under_way is not None:
        say(console, f'Attempt {under_way} is under way; its row is written at the end.\n')
