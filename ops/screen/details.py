"""What is told of one worker, queue, type, relay or e-mail when it is opened."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from db import reports
from db import selection as selections
from db.states import TRIED
from db.switches import SwitchKind
from logs import hide_addresses
from ops.fleet_tables import outcomes_of, worker_state
from ops.output import told_state
from ops.screen.lines import (
    ScreenLine,
    ScreenTarget,
    plain_line,
    table_lines,
    wrapped_lines,
)
from ops.screen.look import OUTCOMES, FleetLook, is_paused
from reporting.explain import explain_email
from reporting.following import StepsTold, new_steps
from reporting.mail_filter import MailFilter, make_selection
from reporting.problems import Document, ProblemError
from reporting.servers import Servers
from reporting.wording import cell, hide_recipient, length, megabytes, tried

NEWEST = 20
SWITCHED = {
    'queue': SwitchKind.QUEUE, 'type': SwitchKind.EMAIL_TYPE, 'relay': SwitchKind.RELAY,
}  # fmt: skip


def target_lines(
    target: ScreenTarget, look: FleetLook, loaded: Sequence[Document], width: int
) -> Iterator[ScreenLine]:
    """Yield what is told of a target.

    Args:
        loaded: Its failed e-mails, see load_failed; of a type or a relay.
    """
    if target.kind == 'worker':
        yield from _worker(target.name, look.document, width)
        return
    if switch := is_paused(look.document, SWITCHED[target.kind], target.name):
        why = f': {cell(switch["reason"])}' if switch['reason'] else ''
        paused = f'paused since {cell(switch["paused_at"])} by {cell(switch["paused_by"])}{why}'
        yield from wrapped_lines(paused, width, 'yellow')
    if target.kind == 'queue':
        yield from _queue(target.name, look.document, width)
    else:
        yield from _named(target, look.document, loaded, width)


def _pairs(pairs: Sequence[tuple[str, Any]], width: int) -> Iterator[ScreenLine]:
    """Yield names and values; a long value goes on in further lines."""
    column = max((len(name) for name, _ in pairs), default=0) + 2
    for name, value in pairs:
        if value not in (None, '', '-', [], {}):
            first, *more = wrapped_lines(cell(value), max(width - column, 10))
            line = plain_line(f'{name:<{column}}', 'dim')
            yield ScreenLine(line.text.append_text(first.text))
            for rest in more:
                yield ScreenLine(plain_line(' ' * column).text.append_text(rest.text))


def _worker(name: str, document: Document, width: int) -> Iterator[ScreenLine]:
    worker = next((w for w in document['workers'] or () if w['worker'] == name), None)
    if worker is None:
        yield plain_line('It is not there any more.', 'yellow')
        return
    hold = worker['last_hold'].get('at') and f'{worker["loop_holds"]} times over a second'
    yield from _pairs(
        [
            ('state', worker_state(worker)), ('queue', worker['queue']),
            ('up', length(worker['uptime_s'])), ('version', worker['version']),
            ('settings', worker['settings']), ('switches on', ', '.join(worker['safety'])),
            ('attempts', outcomes_of(worker['outcomes'])),
            ('jobs', outcomes_of(worker['jobs_done'])),
            ('e-mails at once', worker['concurrency'].get('emails')),
            ('limit', f'{worker["rate_limit_per_s"]:g}/s' if worker['rate_limit_per_s'] else None),
            ('memory', megabytes(worker['rss_bytes'])),
            ('loop lag', f'{worker["loop_lag_ms"]:.0f} ms'), ('loop held', hold or None),
            ('log level', worker['log_level']),
        ],
        width,
    )  # fmt: skip
    yield ScreenLine()
    yield from table_lines(
        'being sent',
        ('phase', 'relay', 'since'),
        (
            (ScreenTarget('mail', str(e.get('id'))),
             (e.get('id'), e.get('phase'), e.get('relay'), e.get('started_at')))
            for e in worker['emails']
        ),
        width,
        empty='nothing',
    )  # fmt: skip
    yield ScreenLine()
    yield from table_lines(
        'relay',
        ('state', 'place', 'last error'),
        (
            (ScreenTarget('relay', str(r.get('name'))),
             (r.get('name'), r.get('state'), r.get('place'), hide_addresses(r.get('last_error'))))
            for r in worker['relays']
        ),
        width,
    )  # fmt: skip


def _queue(name: str, document: Document, width: int) -> Iterator[ScreenLine]:
    queue = next((q for q in document['queues'] or () if q['name'] == name), None)
    if queue is None:
        yield plain_line('It is empty.')
        return
    served = 'yes' if queue['served'] else 'no: its jobs wait, their mail is swept'
    yield from _pairs(
        [
            ('ready', queue['ready']), ('deferred', queue['deferred']),
            ('running', queue['running']), ('oldest', length(queue['oldest_ready_s'])),
            ('served', served), ('problem', queue['problem']),
        ],
        width,
    )  # fmt: skip
    serving = [w for w in document['workers'] or () if w['queue'] == name]
    yield ScreenLine()
    yield from table_lines(
        'worker',
        ('state', 'sending'),
        (
            (ScreenTarget('worker', w['worker']), (w['worker'], worker_state(w), w['sending']))
            for w in serving
        ),
        width,
    )


def _named(
    target: ScreenTarget, document: Document, loaded: Sequence[Document], width: int
) -> Iterator[ScreenLine]:
    """Yield a type or a relay: its hour, how workers see it, and its failed e-mails."""
    rows = document['types'] if target.kind == 'type' else document['relays']
    counts = next((row for row in rows or () if row['name'] == target.name), None)
    if counts:
        told = ', '.join(f'{counts[name]} {name}' for name in OUTCOMES)
        yield plain_line(f'within the hour: {told}')
    if target.kind == 'relay':
        yield ScreenLine()
        seen = [
            (w['worker'], r)
            for w in document['workers'] or ()
            for r in w['relays']
            if r.get('name') == target.name
        ]
        yield from table_lines(
            'worker',
            ('state', 'again in', 'place', 'last error'),
            (
                (ScreenTarget('worker', worker),
                 (worker, r.get('state'), length(r.get('retry_in_s') or None), r.get('place'),
                  hide_addresses(r.get('last_error'))))
                for worker, r in seen
            ),
            width,
        )  # fmt: skip
    yield ScreenLine()
    yield from table_lines(
        'failed',
        ('recipient', 'state', 'attempts', 'next', 'error'),
        (
            (ScreenTarget('mail', str(e['id'])),
             (e['id'], hide_recipient(e['recipient']), told_state(e),
              tried(e['attempts'], e['max_attempts']), e['next_retry_at'],
              hide_addresses(e['error']) or e['dead_reason']))
            for e in loaded
        ),
        width,
        spare=('next', 'attempts'),
    )  # fmt: skip


async def load_failed(servers: Servers, target: ScreenTarget) -> list[Document]:
    """Return the newest failed e-mails of a type or a relay; of anything else none."""
    if target.kind not in ('type', 'relay'):
        return []
    name = target.name
    wanted = MailFilter(email_type=name) if target.kind == 'type' else MailFilter(relay=name)
    selection = await make_selection(servers, wanted, TRIED)
    listing = partial(selections.list_selected, selection=selection, limit=NEWEST)
    return await servers.ask_postgres(listing)


async def load_mail(servers: Servers, email_id: int, width: int) -> list[ScreenLine]:
    """Return one e-mail: its row, each step so far, and what happens next."""
    reading = partial(reports.read_email, email_id=email_id, with_content=False)
    email = await servers.ask_postgres(reading)
    if email is None:
        return [plain_line('There is no such e-mail any more.', 'yellow')]
    attempts = await servers.ask_postgres(partial(reports.read_attempts, email_id=email_id))
    lines = list(
        _pairs(
            [
                ('status', email['status']), ('recipient', hide_recipient(email['recipient'])),
                ('subject', email['subject']), ('type', email['email_type']),
                ('queued', email['created_at']), ('next attempt', email['next_retry_at']),
                ('expires', email['expires_at']), ('dead because', email['dead_reason']),
                ('Message-ID', email['message_id']), ('organization', email['organization_id']),
            ],
            width,
        )
    )  # fmt: skip
    lines.append(ScreenLine())
    for step in new_steps(StepsTold(), email, attempts):
        lines += wrapped_lines(f'{cell(step.at)}  {step.what}: {step.text}', width)
    return lines


async def load_explanation(servers: Servers, email_id: int, width: int) -> list[ScreenLine]:
    """Return in words why an e-mail is not sent, and what to do."""
    try:
        document, problems = await explain_email(servers, email_id)
    except ProblemError as error:
        return wrapped_lines(error.problem.line, width, 'yellow')
    lines = wrapped_lines(f'E-mail {email_id} is {document["status"]}.', width, 'bold')
    lines += wrapped_lines(document['next'], width)
    for reason in document['because']:
        lines += wrapped_lines(f'- {reason["what"]} {reason["remedy"] or ""}', width)
    for problem in problems:
        lines += wrapped_lines(problem.line, width, 'yellow')
    return lines
