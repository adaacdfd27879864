"""An e-mail's way as a list of events: queued, each attempt, what operators did, what is next."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mail_outbox.states import Status
from reporting.next_step import tries_again
from reporting.wording import reply_code

# What the phase of an attempt means: how far the dialogue with the relay was.
PHASES: Mapping[str, str] = {
    'connect': 'while connecting', 'greeting': 'at the greeting', 'tls': 'in TLS',
    'login': 'at the login', 'mail': 'at MAIL FROM', 'rcpt': 'at RCPT TO', 'data': 'at DATA',
    'body': 'while sending the message', 'replied': '', 'render': 'before any relay was asked',
}  # fmt: skip
DECIDED: Mapping[str, str] = {
    'email.retry': 'sent again', 'email.cancel': 'cancelled', 'email.hold': 'held',
    'email.release': 'released', 'email.resolve': 'decided', 'email.readdress': 'readdressed',
    'email.read': 'its content was read',
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One thing that happened, or will.

    Attributes:
        tone: see web.pages.words.TONES.
        details: Lines of smaller text: worker, relay, reply, reason.
    """

    at: datetime
    title: str
    tone: str
    details: Sequence[str] = ()
    entry_id: int | None = None  # of the audit


def timeline(
    email: Mapping[str, Any],
    attempts: Iterable[Mapping[str, Any]],
    entries: Iterable[Mapping[str, Any]],
    now: Mapping[str, Any] | None,
) -> list[TimelineEvent]:
    """Return the events in their order; what is to come stands last.

    Args:
        email: A row of db.reports.read_email.
        attempts: Of db.reports.read_attempts.
        entries: Of db.audit.read_audit, about this e-mail.
        now: Where its worker is, see reporting.next_step.where_now.
    """
    found = [
        TimelineEvent(email['created_at'], 'Queued', 'way', _queued(email)),
        *(_attempt(made) for made in attempts),
        *(_decided(entry) for entry in entries),
    ]
    found.sort(key=lambda event: event.at)
    if email['status'] == Status.SENDING:
        found.append(_under_way(email, now))
    elif tries_again(email):
        due_at = email['next_retry_at'] or email['read_at']
        number = (email['attempts'] or 0) + 1
        found.append(TimelineEvent(due_at, f'Attempt {number} is due', 'next'))
    if email['feedback_at'] is not None:
        what = 'Complained' if email['status'] == Status.COMPLAINED else 'Bounced'
        said = [email['feedback']] if email['feedback'] else []
        found.append(TimelineEvent(email['feedback_at'], what, 'act', said))
    if email['status'] == Status.EXPIRED and email['expires_at']:
        found.append(TimelineEvent(email['expires_at'], 'Expired', 'over'))
    return found


def _queued(email: Mapping[str, Any]) -> list[str]:
    said = []
    if email['expires_at'] is not None:
        said.append(f'to be sent before {email["expires_at"]:%Y-%m-%d %H:%M}Z')
    if email['priority'] != 1:
        said.append(f'priority {email["priority"]}')
    return said


def _attempt(made: Mapping[str, Any]) -> TimelineEvent:
    took = '' if made['duration_ms'] is None else f' in {_duration(made["duration_ms"])}'
    relay = f' by {made["relay"]}' if made['relay'] else ''
    phase = PHASES.get(made['phase'], f'at {made["phase"]}')
    where = f' {phase}' if phase and made['outcome'] != 'accepted' else ''
    details = [f'worker {made["worker"]}']
    code = reply_code(made)
    said = made['reply'] or made['error']
    if said or code:
        details.append(f'{code} {said}' if code and not str(said).startswith(str(code)) else said)
    if made['error'] and made['error'] != said:
        details.append(made['error'])
    title = f'Attempt {made["attempt"]}: {made["outcome"]}{relay}{where}{took}'
    return TimelineEvent(made['started_at'], title, str(made['outcome']), details)


def _duration(ms: int) -> str:
    return f'{ms} ms' if ms < 1000 else f'{ms / 1000:.1f} s'


def _decided(entry: Mapping[str, Any]) -> TimelineEvent:
    details = entry['details'] if isinstance(entry['details'], dict) else {}
    what = DECIDED.get(entry['action'], entry['action'])
    said = [str(details['reason'])] if details.get('reason') else []
    if entry['action'] == 'email.readdress':
        said.insert(0, f'{details.get("before")} → {details.get("after")}')
    title = f'{entry["actor"]}: {what}'
    return TimelineEvent(entry['at'], title, 'person', said, entry['id'])


def _under_way(email: Mapping[str, Any], now: Mapping[str, Any] | None) -> TimelineEvent:
    details = [f'worker {email["claimed_by"]}']
    if now and now.get('phase'):
        relay = f' of {now["relay"]}' if now.get('relay') else ''
        details.append(f'at {now["phase"]}{relay}')
    began_at = email['claimed_at'] or email['read_at']
    return TimelineEvent(began_at, f'Attempt {email["attempts"]} is under way', 'way', details)
