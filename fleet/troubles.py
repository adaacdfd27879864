"""What is wrong with the fleet and the outbox, and what to do about it: for `ops status` and the web page."""

from dataclasses import dataclass
from typing import Any

from db.switches import Kind
from fleet.wording import because, counted, fault, length

Document = dict[str, Any]

TROUBLE, NO_WORKER = 1, 69  # exit statuses; 69 is what `celery status` ends with when nobody replies

CHECK_IS_OLD_S = 180.0  # services are checked every minute
MAIL_IS_LATE_S = 600.0  # two sweeps


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong, and what to do about it. service and place when a server does not do its part."""

    what: str
    remedy: str
    service: str | None = None
    place: str | None = None
    exit_status: int = TROUBLE

    @property
    def line(self) -> str:
        """For people: one line."""
        where = f'{self.service} at {self.place}: ' if self.service else ''
        return ' '.join(f'{where}{self.what}; {self.remedy}'.split())

    def as_document(self) -> Document:
        """For machines; no password is in any part."""
        return {'service': self.service, 'place': self.place, 'what': self.what, 'remedy': self.remedy}


NOBODY_REPLIED = Trouble(
    'no worker replied', 'start one with `arq worker.WorkerSettings`, or read its log', exit_status=NO_WORKER
)


SETTINGS_FOR = {
    'arq:queue': 'worker.WorkerSettings',
    'high_priority': 'worker.HighPriority',
    'low_priority': 'worker.LowPriority',
}


def is_alive(fleet: Document) -> bool:
    """Whether any worker replied, by its record or by arq's health key."""
    return bool(fleet['workers']) or any(queue['served'] for queue in fleet['queues'])


def fleet_troubles(fleet: Document) -> list[Trouble]:
    """Judge workers and queues."""
    return queue_troubles(fleet) if is_alive(fleet) else [NOBODY_REPLIED]


def queue_troubles(fleet: Document) -> list[Trouble]:
    """Name the queues whose jobs nobody will run."""
    return [
        Trouble(
            f'nobody serves the queue {queue["name"]}, which has {counted(queue["ready"] + queue["deferred"], "job")}',
            f'start `arq {SETTINGS_FOR[queue["name"]]}`'
            if queue['name'] in SETTINGS_FOR
            else 'start a worker for it, or see who puts jobs there',
        )
        for queue in fleet['queues']
        if not queue['served'] and queue['ready'] + queue['deferred']
    ]


def stored_troubles(stored: Document, *, is_worked: bool) -> list[Trouble]:
    """Judge what PostgreSQL knows. Without a worker, mail that waits is no second trouble."""
    found = []
    outbox = stored['outbox']
    if is_worked and (outbox['oldest_due_s'] or 0) > MAIL_IS_LATE_S:
        due = counted(outbox['due'], 'e-mail is', 'e-mails are')
        late = f'{due} due, the first for {length(outbox["oldest_due_s"])}'
        paused = any(switch['kind'] != Kind.CRON for switch in stored['switches'])
        why = 'see what is paused, or' if paused else 'look for'
        found.append(Trouble(late, f'{why} a relay that is down, or start more workers'))
    if is_worked and outbox['stuck']:
        stuck = counted(outbox['stuck'], 'e-mail is', 'e-mails are')
        found.append(Trouble(f'{stuck} held by workers that are gone', 'see the `beat` lines in the log'))
    found += [
        Trouble(f'{duty["duty"]} failed{because(fault(duty["detail"]))}', "see `duty failed` in the worker's log")
        for duty in stored['duties']
        if duty['outcome'] == 'error'
    ]
    services = stored['services']
    fresh = [service for service in services if service['checked_s'] <= CHECK_IS_OLD_S]
    if is_worked and services and not fresh:
        age = length(min(service['checked_s'] for service in services))
        found.append(Trouble(f'services were last checked {age} ago', 'see why no worker runs check_service_health'))
    found += [
        Trouble(
            f'{service["service"]} is {service["status"]}{because(service["error"])}',
            'start it, or correct its settings',
        )
        for service in fresh
        if service['status'] != 'up'
    ]
    return found
