"""What an import from Celery and the way back print."""

from typing import Any

from rich.console import Console

from ops.celery.broker import IMPORTED_KEY
from ops.celery.tally import MEANINGS
from ops.output import print_table, say
from reporting.problems import Document
from reporting.wording import counted


def render_import(document: Document, console: Console) -> None:
    """Print what was found, and what became of it."""
    if 'put_back' in document:
        render_undo(document, console)
        return
    schema: dict[str, Any] = document['schema']
    would = 'would be ' if document['dry_run'] else ''
    if schema['missing']:
        say(
            console,
            f'The schema {would or "was "}brought up to date: {", ".join(schema["missing"])}.',
        )
    if schema['emails'] is None:
        say(console, 'There was no outbound_emails.')
    else:
        print_table(console, 'E-mails before', ('status', 'e-mails'), schema['emails'].items())
    _print_messages(document, console, would=bool(would))
    _print_notes(document, console)
    _print_table_side(document, console)
    if document['dry_run']:
        say(console, 'Nothing was changed.')
    elif document['messages']:
        say(console, f'What was taken is kept under {IMPORTED_KEY}:*, in its order, for --undo.')


def _print_messages(document: Document, console: Console, *, would: bool) -> None:
    print_table(
        console,
        f'Messages in {document["broker"]}',
        ('in', 'messages'),
        document['sources'].items(),
    )
    rows = ((name, count, MEANINGS[name]) for name, count in document['outcomes'].items())
    print_table(
        console,
        'What becomes of them' if would else 'What became of them',
        ('', 'messages', ''),
        rows,
    )
    if document['unknown_tasks']:
        about_open: dict[str, dict[str, int]] = document['unknown_about_open']
        rows = (
            (
                name,
                count,
                *(about_open.get(name, {}).get(key, 0) for key in ('about_open', 'with_eta')),
            )
            for name, count in document['unknown_tasks'].items()
        )
        columns = ('task', 'messages', 'name e-mails not sent yet', 'of these with an ETA')
        print_table(console, 'Unknown tasks', columns, rows)
    if document['samples']:
        samples = (
            (s['outcome'], s['source'], s['task'], s['email_id'], s['problem'])
            for s in document['samples']
        )
        print_table(console, 'To look at', ('', 'in', 'task', 'e-mail', 'problem'), samples)


def _print_notes(document: Document, console: Console) -> None:
    if document['latest_eta']:
        say(
            console,
            'Messages with an ETA keep it; '
            f'the last is for {document["latest_eta"]:%Y-%m-%d %H:%M:%SZ}.',
        )
    if document['by_header']:
        are = counted(document['by_header'], 'message is', 'messages are')
        say(console, f'{are} in no JSON: the headers name the e-mail, the body was not read.')
    if document['goes_on']:
        say(
            console,
            f'Other tasks were to follow {document["goes_on"]} of them (chains, callbacks): '
            'nobody runs those.',
        )
    if document['results']:
        say(
            console,
            "Results of Celery's tasks (celery-task-meta-*) are left alone: "
            'they lapse by themselves.',
        )
    if document['signs']['producers']:
        puts = counted(document['signs']['producers'], 'client puts', 'clients put')
        say(
            console,
            f'{puts} messages here, or did last: beat, or an application '
            'that was not deployed yet.',
        )
    if document['signs']['growing']:
        say(
            console,
            f'Messages come into {", ".join(document["signs"]["growing"][:5])}: '
            'somebody still asks Celery.',
        )
    for unknown in document['signs']['unknown']:
        say(console, f'Not known: {unknown}.')


def _print_table_side(document: Document, console: Console) -> None:
    if document.get('forecast'):
        rows = (
            (f['fate'], f['status'], f['emails'], f['oldest_due_at'], f['first_id'])
            for f in document['forecast']
        )
        columns = ('the first start', 'status', 'e-mails', 'the oldest due at', 'for example')
        print_table(console, 'What becomes of e-mails without a message', columns, rows)
    if document.get('taken_over') is not None:
        print_table(
            console,
            'The table was taken over',
            ('became', 'e-mails'),
            document['taken_over'].items(),
        )


def render_undo(document: Document, console: Console) -> None:
    """Print what went back to Celery, and what did not."""
    would = 'would be ' if document['dry_run'] else ''
    print_table(
        console, f'Messages {would}put back', ('to', 'messages'), document['put_back'].items()
    )
    if document['stay_kept']:
        ended = counted(document['stay_kept'], 'message is', 'messages are')
        say(
            console,
            f'{ended} about e-mails that were sent, refused or given up here: '
            'not put back, so not sent twice.',
        )
    for name in document['queues_moved']:
        say(console, f'Our queue {name} {would or "was "}renamed: Celery has a list of that name.')
    if document['given_back'] is not None:
        print_table(
            console, 'E-mails given back', ('state', 'e-mails'), document['given_back'].items()
        )
    if document['dry_run']:
        say(console, 'Nothing was changed.')
