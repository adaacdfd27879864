"""What stands between an e-mail that waits and its next attempt, and what to do about each. Facts in, sentences out."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from db.late import TAKEN_BACK
from db.switches import Kind, Switch
from fleet.refused_jobs import REMEDIES, reported_refusals
from fleet.registry import WorkerRecord
from mail.outcome import Outcome
from ops.output import because, cell, counted, hide_addresses, hide_recipient, length

Email = Mapping[str, Any]  # a row of db.reports.read_email


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason, and what to do; no remedy when it goes by itself."""

    what: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known besides the row. None: nobody could be asked."""

    workers: Sequence[WorkerRecord] | None = None
    anybody_alive: bool | None = None
    switches: Sequence[Switch] = ()
    recipients: Sequence[str] = ()
    unreadable: str | None = None  # why the recipient field cannot be read
    suppressed: Mapping[str, str] = field(default_factory=dict)
    template_missing: bool = False
    content_missing: bool = False
    content_unknown: bool = False  # MongoDB does not answer
    ahead: int = 0
    last_minute: int = 0  # attempts of all workers
    services_down: Mapping[str, str | None] = field(
        default_factory=dict
    )  # of the last check, with the error


def obstacles(email: Email, facts: Facts) -> list[Obstacle]:
    """Return what keeps an e-mail that will be tried again from being tried now, the gravest first."""
    return [
        *_nobody(facts),
        *_failed(email),
        *_paused(email, facts),
        *_no_relay(facts),
        *_content(email, facts),
        *_recipients(facts),
        *_suspect(email),
        *_queue(email, facts),
    ]


MOST_REFUSALS = 3  # told apart


def refused_recipients(email: Email) -> Iterator[Obstacle]:
    """Yield who did not get an e-mail that others got, by domain and with the relay's words."""
    outcomes = email['recipient_outcomes']
    told = outcomes.items() if isinstance(outcomes, dict) else ()
    refused = [
        (to, str(t[1]))
        for to, t in told
        if isinstance(t, list) and len(t) == 2 and t[0] == Outcome.REJECTED
    ]
    if refused:
        alike = Counter(
            f'{hide_recipient(to)}: {hide_addresses(said)}'[:80] for to, said in refused
        )
        named = [
            what if times == 1 else f'{times} x {what}'
            for what, times in alike.most_common(MOST_REFUSALS)
        ]
        left = '; ...' if len(alike) > MOST_REFUSALS else ''
        yield Obstacle(
            f'{len(refused)} of {counted(len(outcomes), "recipient")} did not get it: {"; ".join(named)}{left}.',
            'Queue a new e-mail for those whose addresses you can correct.',
        )


def refused_jobs(email: Email, facts: Facts) -> Iterator[Obstacle]:
    """Tell of jobs for this e-mail that workers could not run: whoever enqueued them believes that they did."""
    refused = [job for worker in facts.workers or () for job in worker.refused_jobs]
    for job in reported_refusals(refused, email['id'])[:3]:
        age = length(max(0.0, time.time() - float(job['at'])))
        why = (hide_addresses(cell(job['why'])) or '').rstrip('.')
        yield Obstacle(
            f'A job for it was refused {age} ago: {why}.',
            f'{REMEDIES[job["reason"]].capitalize()}.',
        )


def taken_back(attempts: Iterable[Mapping[str, Any]]) -> Iterator[Obstacle]:
    """Yield the attempts that the row does not tell of: it was set to something else while they were under way."""
    for made in attempts:
        if (made['error'] or '').endswith(TAKEN_BACK):
            ended = {'accepted': 'was accepted, so it was delivered'}.get(
                made['outcome'], f'ended as {made["outcome"]}'
            )
            begun = f'attempt {made["attempt"]}, begun at {cell(made["started_at"])}'
            yield Obstacle(
                f'Its row was set to something else while {begun}, was under way, which {ended}.'
            )


def _nobody(facts: Facts) -> Iterator[Obstacle]:
    if facts.anybody_alive is False:
        yield Obstacle(
            'No worker replies.', 'Start one with `arq worker.WorkerSettings`, or read its log.'
        )


def _failed(email: Email) -> Iterator[Obstacle]:
    if email['status'] in ('failed', 'uncertain') and email['last_error']:
        came = 'failed' if email['status'] == 'failed' else 'has no known outcome'
        why = (hide_addresses(email['last_error']) or '').rstrip('.')
        yield Obstacle(f'Attempt {email["attempts"]} {came}: {why}.')


def _paused(email: Email, facts: Facts) -> Iterator[Obstacle]:
    for switch in facts.switches:
        if switch.kind is Kind.EMAIL_TYPE and switch.name == email['email_type']:
            yield Obstacle(
                f'E-mails of its type {_paused_by(switch)}.',
                f'`python -m ops control resume --type {switch.name}`.',
            )
    workers = facts.workers or ()
    if workers and all(worker.state != 'running' for worker in workers):
        why = dict.fromkeys(reason for worker in workers for reason in worker.paused)
        paused = '; '.join(why) or ', '.join(sorted({worker.state for worker in workers}))
        remedy = '`python -m ops control resume`, with --queue NAME for a queue; or start another.'
        yield Obstacle(
            f'No worker takes anything now: {paused}.',
            remedy if why else 'Start one, if the service manager does not.',
        )


def _paused_by(switch: Switch) -> str:
    because = f' ({switch.reason})' if switch.reason else ''
    return f'{switch.name} are paused by {switch.paused_by} since {cell(switch.paused_at)}{because}'


def _no_relay(facts: Facts) -> Iterator[Obstacle]:
    told = [relay for worker in facts.workers or () for relay in worker.relays]
    if not told:
        for name, error in facts.services_down.items():
            if name.startswith('smtp_'):
                yield Obstacle(
                    f'The relay {name.removeprefix("smtp_")} did not answer the last check{because(error)}.'
                )
        return
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for relay in told:
        by_name.setdefault(str(relay.get('name')), []).append(relay)
    switches = {
        s.name: s for s in facts.switches if s.kind is Kind.RELAY
    }  # workers hear of them up to 3 s later
    stuck = {
        name: seen
        for name, seen in by_name.items()
        if name in switches or all(relay.get('state') != 'ready' for relay in seen)
    }
    for name, seen in stuck.items():
        first, switch = seen[0], switches.get(name)
        if switch or first.get('state') == 'paused':
            by = f' by {switch.paused_by}' if switch else ''
            what, remedy = f'is paused{by}', f'`python -m ops relay resume {name}`.'
        else:
            error = hide_addresses(first.get('last_error')) or 'it failed'
            what = f'cools down for {length(_number(first.get("retry_in_s")))}: {error}'
            remedy = 'See why it does not answer; `python -m ops doctor` tries it.'
        others = '' if len(stuck) == len(by_name) else ' The other relay is used.'
        yield Obstacle(f'The relay {name} {what}.{others}', None if others else remedy)
    for name, seen in by_name.items():
        limited = [relay for relay in seen if relay.get('most_per_s')]
        if limited and name not in stuck:
            per_s = round(sum(_number(relay['most_per_s']) for relay in limited), 1)
            error = (hide_addresses(limited[0].get('last_error')) or '').rstrip('.')
            yield Obstacle(
                f'The relay {name} wants no more than about {per_s:g} e-mails a second: {error}.'
            )


def _content(email: Email, facts: Facts) -> Iterator[Obstacle]:
    dead = 'The next attempt ends for good (render)'
    if facts.template_missing:
        yield Obstacle(
            f'Its template {email["template_id"]} does not exist. {dead}.',
            'Create the template before.',
        )
    if facts.content_missing:
        yield Obstacle(
            f'Its attachments {email["content_id"]} are not in MongoDB. {dead}.',
            'Store them before.',
        )
    if facts.content_unknown:
        yield Obstacle(
            'MongoDB does not answer, and it has attachments: it waits, which costs no attempt.',
            'Start it.',
        )
    if facts.unreadable:
        yield Obstacle(
            f'Its recipient cannot be read: {facts.unreadable}. {dead}.',
            'Correct the column `recipient`.',
        )


def _recipients(facts: Facts) -> Iterator[Obstacle]:
    if not facts.suppressed:
        return
    reasons = '; '.join(dict.fromkeys(facts.suppressed.values()))
    who = 'Every recipient' if len(facts.suppressed) == len(facts.recipients) else 'A recipient'
    remedy = '`python -m ops suppress rm ADDRESS` takes an address off the list.'
    yield Obstacle(f'{who} is on the list of those who get no mail: {reasons}.', remedy)


def _suspect(email: Email) -> Iterator[Obstacle]:
    if email['lost_attempts']:
        lost = counted(email['lost_attempts'], 'worker was', 'workers were')
        yield Obstacle(
            f'{lost} lost with it, of the 3 in a row that end it. In case it is what kills them, such '
            'mail is sent apart from all other, ten at a time and then one by one; after the third it is dead (poison).'
        )


def _queue(email: Email, facts: Facts) -> Iterator[Obstacle]:
    if not facts.ahead or not is_due(email):
        return
    at_rate = ''
    if facts.last_minute:
        at_rate = (
            f"; at the last minute's rate that is {length(facts.ahead * 60 / facts.last_minute)}"
        )
    yield Obstacle(f'{counted(facts.ahead, "e-mail is", "e-mails are")} due before it{at_rate}.')


def is_due(email: Email) -> bool:
    """Whether its time has come."""
    due_at: datetime | None = email['next_retry_at']
    return due_at is None or due_at <= email['read_at']


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


# What a dead e-mail's dead_reason means, and what to do before it is sent again.
DEAD = {
    'rejected': (
        'The relay refused it for good',
        'Correct the address, or ask the relay, before it is sent again.',
    ),
    'render': (
        'It could not be made into a message',
        'Correct its row, template or attachments first.',
    ),
    'exhausted': ('Every attempt failed', 'See what the relay said; it may work now.'),
    'poison': (
        'Three workers in a row were lost while they sent it',
        "Read those workers' logs first.",
    ),
    'refused': (
        'PostgreSQL refuses to change its row',
        'See which rule it breaks; then `retry` sends it.',
    ),
    'unreadable': (
        'Its row holds what cannot be worked with',
        'Correct the row; then `retry` sends it.',
    ),
    'given up': ('An operator gave it up', None),
}


def why_dead(email: Email) -> Obstacle:
    """Say why a failed e-mail gets no further attempt."""
    what, remedy = DEAD.get(email['dead_reason'] or 'exhausted', (email['dead_reason'], None))
    said = hide_addresses(email['last_error'] or email['smtp_response'])
    return Obstacle(f'{what}{f": {said}" if said else ""}.', remedy)
