"""What keeps an e-mail that waits from its next attempt, and what to do about each: facts in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from db.reports.one_email import MOST_AHEAD
from db.states import TRIED
from db.switches import Switch, SwitchKind
from fleet.registry import WorkerRecord
from logs import hide_addresses
from mail.safety import ALLOWED, DRY_RUN, OVERRIDE, SOFT_BOUNCE
from reporting.wording import because, cell, counted, length

Email = Mapping[str, Any]  # a row of db.reports.read_email
SEE_RELAY = 'See why it does not answer; `python -m ops doctor` tries it.'


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, and what to do; no remedy when it goes by itself."""

    what: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class EmailFacts:
    """What is known besides the row. None: nobody could be asked."""

    workers: Sequence[WorkerRecord] | None = None
    anybody_alive: bool | None = None
    switches: Sequence[Switch] = ()
    recipients: Sequence[str] = ()
    unreadable: str | None = None  # why an address cannot be read
    sender_refused: str | None = None  # nobody has allowed it; with the remedy
    suppressed: Mapping[str, str] = field(default_factory=dict)
    template_missing: bool = False
    content_missing: bool = False
    content_unknown: bool = False  # MongoDB does not answer
    ahead: int = 0
    last_minute: int = 0  # attempts of all workers
    services_down: Mapping[str, str | None] = field(
        default_factory=dict
    )  # of the last check, with the error


SUPPRESS_RM = (
    '`python -m ops suppress rm ADDRESS` takes an address off the list, '
    'with `--type TYPE` off that of a type'
)
SAFETY: Mapping[str, str] = {
    DRY_RUN: 'messages are made and handed to no relay',
    OVERRIDE: 'other addresses get every message instead of its recipients',
    ALLOWED: 'outside some domains nobody gets mail',
    SOFT_BOUNCE: 'what a relay refuses for good is tried again',
}


def safety_switches(facts: EmailFacts) -> Iterator[Reason]:
    """Yield the switches that keep mail from leaving, of any worker."""
    on = {name for worker in facts.workers or () for name in worker.safety}
    for name, effect in SAFETY.items():
        if name in on:
            yield Reason(f'{name} is on: {effect}.', 'Take it from the settings; restart.')


def blockers(email: Email, facts: EmailFacts) -> list[Reason]:
    """Return what keeps a waiting e-mail from being tried now, the gravest first."""
    return [
        *nobody_alive(facts),
        *_failed(email),
        *_paused(email, facts),
        *_no_relay(facts),
        *_content(email, facts),
        *_recipients(facts),
        *_suspect(email),
        *_queue(email, facts),
    ]


def nobody_alive(facts: EmailFacts) -> Iterator[Reason]:
    """Yield that no worker replies, when somebody could be asked."""
    if facts.anybody_alive is False:
        yield Reason(
            'No worker replies.', 'Start one with `arq worker.WorkerSettings`, or read its log.'
        )


def _failed(email: Email) -> Iterator[Reason]:
    if email['status'] in TRIED and email['last_error']:
        came = 'failed' if email['status'] == 'failed' else 'has no known outcome'
        why = (hide_addresses(email['last_error']) or '').rstrip('.')
        yield Reason(f'Attempt {email["attempts"]} {came}: {why}.')


def _paused(email: Email, facts: EmailFacts) -> Iterator[Reason]:
    for switch in facts.switches:
        if switch.kind is SwitchKind.EMAIL_TYPE and switch.name == email['email_type']:
            yield Reason(
                f'E-mails of its type {_paused_by(switch)}.',
                f'`python -m ops control resume --type {switch.name}`.',
            )
    workers = facts.workers or ()
    if workers and all(worker.state != 'running' for worker in workers):
        why = dict.fromkeys(reason for worker in workers for reason in worker.paused)
        paused = '; '.join(why) or ', '.join(sorted({worker.state for worker in workers}))
        remedy = '`python -m ops control resume`, with --queue NAME for a queue; or start another.'
        yield Reason(
            f'No worker takes anything now: {paused}.',
            remedy if why else 'Start one, if the service manager does not.',
        )


def _paused_by(switch: Switch) -> str:
    because = f' ({switch.reason})' if switch.reason else ''
    return f'{switch.name} are paused by {switch.paused_by} since {cell(switch.paused_at)}{because}'


def _no_relay(facts: EmailFacts) -> Iterator[Reason]:
    reported = [relay for worker in facts.workers or () for relay in worker.relays]
    if not reported:
        for name, error in facts.services_down.items():
            if name.startswith('smtp_'):
                yield Reason(
                    f'The relay {name.removeprefix("smtp_")} did not answer the last check'
                    f'{because(error)}.',
                    SEE_RELAY,
                )
        return
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for relay in reported:
        by_name.setdefault(str(relay.get('name')), []).append(relay)
    switches = {
        s.name: s for s in facts.switches if s.kind is SwitchKind.RELAY
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
            remedy = SEE_RELAY
        others = '' if len(stuck) == len(by_name) else ' The other relay is used.'
        yield Reason(f'The relay {name} {what}.{others}', None if others else remedy)
    for name, seen in by_name.items():
        limited = [relay for relay in seen if relay.get('most_per_s')]
        if limited and name not in stuck:
            per_s = round(sum(_number(relay['most_per_s']) for relay in limited), 1)
            error = (hide_addresses(limited[0].get('last_error')) or '').rstrip('.')
            yield Reason(
                f'The relay {name} wants no more than about {per_s:g} e-mails a second: {error}.'
            )


def _content(email: Email, facts: EmailFacts) -> Iterator[Reason]:
    dead = 'The next attempt ends for good (render)'
    if facts.template_missing:
        yield Reason(
            f'Its template {email["template_id"]} does not exist. {dead}.',
            'Create the template before.',
        )
    if facts.content_missing:
        named = f': MongoDB has no {email["content_id"]}' if email['content_id'] else ''
        yield Reason(
            f'Its attachments are gone{named}. {dead}.',
            'Store them before.',
        )
    if facts.content_unknown:
        yield Reason(
            'MongoDB does not answer, and it has attachments: it waits, which costs no attempt.',
            'Start it, or set MONGODB_URL.',
        )
    if facts.sender_refused:
        what, _, remedy = facts.sender_refused.partition(': `')
        yield Reason(f'Nobody has allowed its sender: {what}. {dead}.', f'`{remedy}.')
    if facts.unreadable:
        yield Reason(
            f'An address cannot be read: {facts.unreadable}. {dead}.',
            'Correct the column that is named.',
        )


def _recipients(facts: EmailFacts) -> Iterator[Reason]:
    if not facts.suppressed:
        return
    reasons = '; '.join(dict.fromkeys(facts.suppressed.values()))
    who = 'Every recipient' if len(facts.suppressed) == len(facts.recipients) else 'A recipient'
    remedy = f'{SUPPRESS_RM}.'
    yield Reason(f'{who} is on the list of those who get no mail: {reasons}.', remedy)


def _suspect(email: Email) -> Iterator[Reason]:
    if email['lost_attempts']:
        lost = counted(email['lost_attempts'], 'worker was', 'workers were')
        yield Reason(
            f'{lost} lost with it, of the 3 in a row that end it. In case it is what kills them, '
            'such mail is sent apart from all other, ten at a time and then one by one; '
            'after the third it is dead (poison).'
        )


def _queue(email: Email, facts: EmailFacts) -> Iterator[Reason]:
    if not facts.ahead or not is_due(email):
        return
    at_rate = ''
    if facts.last_minute:
        at_rate = (
            f"; at the last minute's rate that is {length(facts.ahead * 60 / facts.last_minute)}"
        )
    more = 'At least ' if facts.ahead >= MOST_AHEAD else ''
    told = counted(facts.ahead, 'e-mail is', 'e-mails are')
    yield Reason(f'{more}{told} due before it{at_rate}.')


def is_due(email: Email) -> bool:
    """Whether its time has come."""
    due_at: datetime | None = email['next_retry_at']
    return due_at is None or due_at <= email['read_at']


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
