"""Send e-mails again that ended: failed, expired, uncertain, cancelled."""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

from arq.connections import ArqRedis
from rich.console import Console

from db import reports
from db.transitions import retry
from db.wakeups import notify
from ops.answer import Answer, Document, Trouble, TroubleError
from ops.arguments import add_change, add_json, confirmed, email_id
from ops.connect import Connections, attempt
from ops.output import cell, print_table

HELP = 'send failed, expired, uncertain or cancelled e-mails again'

ENDED = ('failed', 'expired', 'uncertain', 'cancelled')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('ids', type=email_id, nargs='+', metavar='ID')
    add_change(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Make them due in PostgreSQL, then wake a worker for each."""
    ids = list(dict.fromkeys(options.ids))
    states = await connections.ask_postgres(partial(reports.read_states, email_ids=ids))
    wanted = [i for i in ids if i in states and states[i]['status'] in ENDED]
    if options.dry_run:
        return _answer(ids, states, [], would_retry=wanted)
    if wanted and not confirmed(options, question(wanted, states)):
        raise TroubleError(Trouble('not confirmed, nothing was changed', 'answer y, or give --yes'))
    expiry_hours = connections.settings.email_expiry_hours
    changed = await connections.ask_postgres(partial(retry, email_ids=wanted, expiry_hours=expiry_hours))
    troubles: list[Trouble] = []
    enqueued = await attempt(connections.ask_redis(partial(enqueue, email_ids=changed)), troubles) if changed else 0
    if enqueued is None:
        await connections.ask_postgres(notify)
    if len(changed) < len(wanted):  # somebody was faster: the reasons are newer than the states
        states = await connections.ask_postgres(partial(reports.read_states, email_ids=ids))
    answer = _answer(ids, states, [i for i in ids if i in changed])
    answer.document['enqueued'] = enqueued or 0
    answer.troubles += troubles
    return answer


def question(ids: list[int], states: Mapping[int, Mapping[str, Any]]) -> str:
    """Ask about the number, and warn of what may arrive twice."""
    uncertain = sum(states[i]['status'] == 'uncertain' for i in ids)
    warning = f' {uncertain} may have been delivered already, and would arrive twice.' if uncertain else ''
    return f'Send {counted(len(ids))} again?{warning}'


def counted(emails: int) -> str:
    """Return `1 e-mail`, `2 e-mails`."""
    return f'{emails} e-mail{"" if emails == 1 else "s"}'


async def enqueue(redis: ArqRedis, email_ids: list[int]) -> int:
    """Put one job per e-mail into the default queue. Returns how many."""
    for i in email_ids:
        await redis.enqueue_job('send_email', i)
    return len(email_ids)


def _answer(
    ids: list[int],
    states: Mapping[int, Mapping[str, Any]],
    retried: list[int],
    *,
    would_retry: list[int] | None = None,
) -> Answer:
    """Put together what was done and, for every other id, why not."""
    done = retried if would_retry is None else would_retry
    unchanged = [{'id': i, 'reason': why_not(states.get(i))} for i in ids if i not in done]
    document: Document = {'dry_run': would_retry is not None, 'retried': retried, 'unchanged': unchanged}
    if would_retry is not None:
        document['would_retry'] = would_retry
    troubles = [Trouble(f'{counted(len(unchanged))} not changed', 'see the reasons')] if unchanged else []
    return Answer(document, troubles)


def why_not(state: Mapping[str, Any] | None) -> str:
    """Say why an e-mail was not made due."""
    if state is None:
        return 'there is no such e-mail'
    match state['status']:
        case 'pending' if state['next_retry_at'] is not None:
            return f'it is pending already, due at {cell(state["next_retry_at"])}'
        case 'pending':
            return 'it is pending already'
        case 'sending':
            return f'{state["claimed_by"]} is sending it'
        case 'sent':
            return f'it was sent at {cell(state["sent_at"])}'
        case status:
            return f'somebody changed it meanwhile; it is {status}'


def render(document: Document, console: Console) -> None:
    """Print what was done, counted, and the reasons."""
    if document['dry_run']:
        console.print(f'Would send {counted(len(document["would_retry"]))} again; nothing was changed.')
    else:
        missed = len(document['retried']) - document['enqueued']
        told = f'; Redis took no job for {missed}: workers were told through PostgreSQL' if missed else ''
        console.print(f'{counted(len(document["retried"]))} due now, {document["enqueued"]} queued{told}.')
    if document['unchanged']:
        print_table(console, 'Not changed', ('id', 'why'), ((u['id'], u['reason']) for u in document['unchanged']))
