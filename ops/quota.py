"""How many e-mails an organisation may queue in a day: list, set, remove."""

import argparse
from dataclasses import asdict
from functools import partial

from rich.console import Console

from actions.quotas import drop_quota, put_quota
from db.quotas import EVERYBODY, Quota, read_quotas
from ops.answer import Answer
from ops.arguments import add_change, add_json, add_limit, confirm, count
from ops.connect import Connections
from ops.mail_filter import text_value
from ops.output import print_table, say
from ops.person import this_user
from reporting.problems import Document, Problem

UNLIMITED = 'unlimited'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='ls|set|rm')
    ls = verbs.add_parser('ls', help='quotas, and what is queued today, the fullest first')
    add_limit(ls, 50)
    put = verbs.add_parser('set', help='what is more is refused when it is queued')
    put.add_argument('organization', type=text_value, metavar='ID', help="or '*': all others")
    put.add_argument(
        'emails', type=_emails, metavar='EMAILS', help=f'a day; {UNLIMITED}: not even that of *'
    )
    put.add_argument('--zone', default='UTC', help='in which a day begins: Europe/Berlin')
    rm = verbs.add_parser('rm', help='no quota of its own any more')
    rm.add_argument('organization', type=text_value, metavar='ID', help="or '*'")
    for verb in (put, rm):
        add_change(verb)
    for verb in (ls, put, rm):
        add_json(verb)


def _emails(text: str) -> int | str:
    return UNLIMITED if text == UNLIMITED else 0 if text == '0' else count(text)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Do what the verb says."""
    document: Document = {'quota': options.verb}
    if options.verb == 'ls':
        total, rows = await connections.ask_postgres(partial(read_quotas, limit=options.limit))
        return Answer(document | {'total': total, 'entries': rows})
    whose = options.organization
    of = (
        'each organisation without one of its own'
        if whose == EVERYBODY
        else f'organisation {whose}'
    )
    document |= {'organization_id': whose, 'dry_run': options.dry_run}

    def ask(before: Quota | None) -> None:
        now = f', now {_told(before)}' if before else ''
        what = f'Remove the quota of {of}{now}?'
        if options.verb == 'set':
            what = f'Let {of} queue {_told(quota)}{now}?'
        confirm(what, yes=options.yes)

    if options.verb == 'set':
        emails = None if options.emails == UNLIMITED else options.emails
        quota = Quota(whose, emails, options.zone)
        before = await put_quota(
            connections, quota, created_by=this_user(), dry_run=options.dry_run, confirm=ask
        )
        return Answer(document | {'set': asdict(quota), 'before': before and asdict(before)})
    before = await drop_quota(connections, whose, dry_run=options.dry_run, confirm=ask)
    problems = []
    if before is None:
        problems.append(Problem(f'{of} has no quota', 'see `python -m ops quota ls`'))
    return Answer(document | {'removed': before and asdict(before)}, problems)


def _told(quota: Quota) -> str:
    if quota.emails_per_day is None:
        return 'as many e-mails as it likes'
    return f'{quota.emails_per_day} e-mails a day ({quota.time_zone})'


def render(document: Document, console: Console) -> None:
    """Print the list, or what was done."""
    if 'entries' in document:
        print_table(
            console,
            f'Quotas ({len(document["entries"])} of {document["total"]})',
            ('organisation', 'a day', 'queued today', 'next day begins', 'quota of'),
            (
                (e['organization_id'],
                 UNLIMITED if e['emails_per_day'] is None else e['emails_per_day'],
                 '' if e['organization_id'] == EVERYBODY else e['queued'],
                 f'{e["resets_at"]} ({e["time_zone"]})',
                 'its own' if e['is_own'] else EVERYBODY)
                for e in document['entries']
            ),
        )  # fmt: skip
        return
    done = document.get('set') or document.get('removed')
    if done:
        word = 'Would be ' if document['dry_run'] else ''
        verb = 'set' if document.get('set') else 'removed'
        text = f'{word}{verb}: {done["organization_id"]}, {_told(Quota(**done))}.'
        say(console, f'{text[0].upper()}{text[1:]}')
    if document['dry_run']:
        say(console, 'Nothing was changed.')
