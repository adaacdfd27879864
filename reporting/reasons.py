"""Why an e-mail is as it is, and what to do: a sentence for each reason, from facts alone."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from db.late import TAKEN_BACK
from fleet.refused_jobs import REMEDIES, reported_refusals
from logs import hide_addresses
from mail.outcome import Outcome
from mail.safety import NOT_ALLOWED, NOT_HANDED_OVER
from mail_outbox.states import DeadReason
from reporting.blockers import SUPPRESS_RM, Email, EmailFacts, Reason, blockers, nobody_alive
from reporting.next_step import tries_again
from reporting.wording import cell, counted, hide_recipient, length

MOST_REFUSALS = 3  # named apart
SUPPRESSED = 'suppressed: '  # how the words begin with which a recipient was left out
WITHHELD = (NOT_HANDED_OVER, NOT_ALLOWED)
WITHHELD_REMEDY = 'Take the switch from the settings and restart; then `retry` sends it.'


def reasons_of(email: Email, facts: EmailFacts) -> list[Reason]:
    """Return the reasons why it is not sent, or not to everybody."""
    if tries_again(email):
        return blockers(email, facts)
    match email['status']:
        case 'sent':
            return list(refused_recipients(email))
        case 'bounced' | 'complained':
            return [_came_back(email), *refused_recipients(email)]
        case 'failed':
            return [why_dead(email)]
        case 'sending':
            return list(_lost_worker(email, facts))
        case 'uncertain':
            return [_unknown_outcome(email)]
        case 'held':
            due_at = cell(email['next_retry_at'] or email['created_at'])
            what = (
                f'It was due at {due_at}, and is held since its table was taken over '
                'or an operator held it.'
            )
            return [Reason(what, f'`python -m ops held release {email["id"]}`, or `held cancel`.')]
        case 'external':
            what = 'It belongs to the system that was there before; workers leave it alone.'
            return [Reason(what)]
        case 'cancelled' if (email['last_error'] or '').startswith(WITHHELD):
            return [Reason(f'{_without_end(email["last_error"])}.', WITHHELD_REMEDY)]
        case _:
            return []


def _lost_worker(email: Email, facts: EmailFacts) -> Iterator[Reason]:
    """Yield that its worker does not reply, unless next_step says that its lease is over."""
    lease_ends_at, worker = email['lease_expires_at'], email['claimed_by']
    is_known = facts.workers is None or worker in {w.worker for w in facts.workers}
    if not is_known and lease_ends_at is not None and lease_ends_at > email['read_at']:
        yield Reason(f'{worker} does not reply; when its lease ends, another worker takes over.')
    yield from nobody_alive(facts)


def _came_back(email: Email) -> Reason:
    said = _without_end(email['feedback']) or 'the report gives no reason'
    return Reason(f'{email["relay"] or "A relay"} accepted it, and then: {said}.', SUPPRESS_RM)


def _unknown_outcome(email: Email) -> Reason:
    remedy = (
        f'`python -m ops resolve {email["id"]} --as sent` if it arrived, '
        f'else `python -m ops retry {email["id"]}`.'
    )
    error = _without_end(email['last_error']) or 'no reply came'
    return Reason(f'Nobody knows whether it arrived: {error}.', remedy)


def refused_recipients(email: Email) -> Iterator[Reason]:
    """Yield who did not get an e-mail that others got, by domain and with the relay's words."""
    outcomes = email['recipient_outcomes']
    reported = outcomes.items() if isinstance(outcomes, dict) else ()
    refused = [
        (to, str(t[1]))
        for to, t in reported
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
        is_on_list = all(said.startswith(SUPPRESSED) for _, said in refused)
        new_email = 'Queue a new e-mail for those whose addresses you can correct.'
        yield Reason(
            f'{len(refused)} of {counted(len(outcomes), "recipient")} did not get it: '
            f'{"; ".join(named)}{left}.',
            f'{SUPPRESS_RM}; then queue a new e-mail.' if is_on_list else new_email,
        )


def refused_jobs(email: Email, facts: EmailFacts) -> Iterator[Reason]:
    """Yield the jobs for this e-mail that workers could not run: their producer does not know."""
    refused = [job for worker in facts.workers or () for job in worker.refused_jobs]
    for job in reported_refusals(refused, email['id'])[:3]:
        age = length(max(0.0, time.time() - float(job['at'])))
        yield Reason(
            f'A job for it was refused {age} ago: {_without_end(cell(job["why"]))}.',
            f'{REMEDIES[job["reason"]].capitalize()}.',
        )


def taken_back(attempts: Iterable[Mapping[str, Any]]) -> Iterator[Reason]:
    """Yield the attempts that the row does not show: it was changed while they were under way."""
    for made in attempts:
        if (made['error'] or '').endswith(TAKEN_BACK):
            ended = {'accepted': 'was accepted, so it was delivered'}.get(
                made['outcome'], f'ended as {made["outcome"]}'
            )
            begun = f'attempt {made["attempt"]}, begun at {cell(made["started_at"])}'
            yield Reason(
                f'Its row was set to something else while {begun}, was under way, which {ended}.'
            )


# What a dead e-mail's dead_reason means, and what to do before it is sent again.
DEAD: Mapping[str, tuple[str, str | None]] = {
    DeadReason.REJECTED: (
        'The relay refused it for good',
        'Correct the address, or ask the relay, before it is sent again.',
    ),
    DeadReason.RENDER: (
        'It could not be made into a message',
        'Correct its row, template or attachments first.',
    ),
    DeadReason.SUPPRESSED: (
        'Everybody who was still to get it is on the list of those who get no mail',
        f'{SUPPRESS_RM}; then `retry` sends it.',
    ),
    DeadReason.EXHAUSTED: ('Every attempt failed', 'See what the relay said; it may work now.'),
    DeadReason.POISON: (
        'Three workers in a row were lost while they sent it',
        "Read those workers' logs first.",
    ),
    DeadReason.REFUSED: (
        'PostgreSQL refuses to change its row',
        'See which rule it breaks; then `retry` sends it.',
    ),
    DeadReason.UNREADABLE: (
        'Its row holds what cannot be worked with',
        'Correct the row; then `retry` sends it.',
    ),
    DeadReason.GIVEN_UP: ('An operator gave it up', None),
}


def why_dead(email: Email) -> Reason:
    """Say why a failed e-mail gets no further attempt."""
    what, remedy = DEAD.get(
        email['dead_reason'] or DeadReason.EXHAUSTED, (email['dead_reason'], None)
    )
    said = _without_end(email['last_error'] or email['smtp_response']).replace(SUPPRESSED, '')
    return Reason(f'{what}{f": {said}" if said else ""}.', remedy)


def _without_end(text: str | None) -> str:
    """Return text without addresses and without the full stop that its sentence gets."""
    return (hide_addresses(text) or '').rstrip('.')
