"""What is wrong with the fleet and the outbox, how grave it is, and what to do.

`ops status`, `ops top`, `ops doctor`, the page, /api/status and /metrics show what is found here,
so none of them is content beside another that is not. reporting.kinds is the table of everything
that can be found. Facts are the plain values of reporting.overview; a worker's record may hold
anything, so its parts are read with care.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from db.switches import SwitchKind as Paused
from fleet.duties import DAY_S, DUTIES
from logs import hide_addresses
from reporting.judge_fleet import has_own_worker, judge_fleet
from reporting.judge_webhooks import judge_webhook_figures
from reporting.kinds import found
from reporting.problems import Document, Level, Problem
from reporting.wording import because, counted, fault, length

CHECK_IS_OLD_S = 180.0  # services are checked every minute
MAIL_IS_LATE_S = 600.0  # two sweeps
LATE_DUTIES = 3.0  # slots
FAILING_SHARE, FAILING_ATTEMPTS = 0.5, 20
OF_THE_SYSTEM = (
    'deferred',
    'uncertain',
    'lost',
)  # what may work later; a refused e-mail is the e-mail's own fault
ARE, WERE = ('e-mail is', 'e-mails are'), ('e-mail was', 'e-mails were')
EVERY_S = {duty.name: duty.every_s for duty in DUTIES}


def level_of(problems: Iterable[Problem]) -> Level:
    """Return the gravest level; OK without any problem."""
    return max((problem.level for problem in problems), key=list(Level).index, default=Level.OK)


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Return each problem once, what calls for action before what is worth a look."""
    return sorted(dict.fromkeys(problems), key=lambda problem: problem.level is not Level.ACT)


def judge(fleet: Document | None, stored: Document | None) -> list[Problem]:
    """Judge what is known.

    None is a server that did not answer; the caller reports that.
    """
    is_worked = not fleet or has_own_worker(fleet)
    return in_order(
        [
            *(judge_fleet(fleet) if fleet else ()),
            *(judge_stored(stored, is_worked=is_worked) if stored else ()),
        ]
    )


def judge_stored(stored: Document, *, is_worked: bool) -> list[Problem]:
    """Judge what PostgreSQL knows. Without a worker, mail that waits is no second problem.

    Args:
        stored: see reporting.overview.read_stored.
    """
    hour = Counter({'accepted': stored['outbox']['sent_last_hour']})
    for failure in stored['failures']:
        hour[failure['outcome']] += failure['attempts']
    return [
        *judge_outbox(
            stored['outbox'], stored['paused_due'], stored['poisoned'], is_worked=is_worked
        ),
        *judge_attempts(hour),
        *judge_switches(stored['switches'], stored['paused_due']),
        *judge_duties(stored['duties'], stored['switches'], is_worked=is_worked),
        *judge_services(stored['services'], is_worked=is_worked),
        *judge_webhook_figures(stored['webhooks']),
    ]


def judge_outbox(
    outbox: Document, paused_due: Document, poisoned: int, *, is_worked: bool
) -> Iterator[Problem]:
    """Judge the counts of db.reports.read_outbox.

    What waits only because its type is paused is not late.
    """
    if is_worked:
        due, oldest_s = outbox['due'], outbox['oldest_due_s']
        if paused_due['due']:
            due, oldest_s = paused_due['others_due'], paused_due['oldest_other_s']
        if due and (oldest_s or 0) > MAIL_IS_LATE_S:
            yield found('late', f'{counted(due, *ARE)} due, the first for {length(oldest_s)}')
        if outbox['stuck']:
            stuck = counted(outbox['stuck'], *ARE)
            yield found(
                'stuck', f'{stuck} held by workers that are gone, and nobody takes them over'
            )
    unsent = outbox.get('held_unsent', 0)
    if unsent:
        yield found('held', f'{counted(unsent, *ARE)} held: nobody sends them before you decide')
    if outbox['held'] > unsent:
        yield found(
            'undecided', f'{counted(outbox["held"] - unsent)} may have been delivered or not'
        )
    if outbox['past_expiry']:
        yield found(
            'past_expiry', f'{counted(outbox["past_expiry"], *WERE)} not sent before expires_at'
        )
    if poisoned:
        yield found(
            'poisoned',
            f'{counted(poisoned, *WERE)} set aside within a day: workers died sending them',
        )
    if outbox['dead']:
        yield found('dead', f'{counted(outbox["dead"], *ARE)} dead: failed, and not tried again')


def judge_attempts(hour: Mapping[str, int]) -> Iterator[Problem]:
    """Judge how many attempts of the last hour ended how.

    Refused mail is the mail's fault, the rest is the system's.
    """
    total = sum(hour.values()) - hour.get('released', 0)
    failed = {name: hour[name] for name in (*OF_THE_SYSTEM, 'rejected') if hour.get(name)}
    if total < FAILING_ATTEMPTS or total - sum(failed.values()) >= FAILING_SHARE * total:
        return
    kind = (
        'failing'
        if sum(hour.get(name, 0) for name in OF_THE_SYSTEM) > FAILING_SHARE * total
        else 'refused'
    )
    reported = ', '.join(f'{number} {name}' for name, number in failed.items())
    yield found(
        kind, f'{sum(failed.values())} of {total} attempts failed within the hour: {reported}'
    )


PAUSED_KINDS = {
    Paused.QUEUE: ('paused_queue', 'the queue {} is paused'),
    Paused.RELAY: ('paused_relay', 'the relay {} is paused'),
    Paused.EMAIL_TYPE: ('paused_type', 'e-mails of type {} are paused'),
    Paused.CRON: ('paused_duty', 'the duty {} is paused'),
}


def judge_switches(switches: Iterable[Document], paused_due: Document) -> Iterator[Problem]:
    """Tell what operators have paused, and how much mail waits for that."""
    if paused_due['due']:
        due = counted(paused_due['due'], *ARE)
        oldest = length(paused_due['oldest_due_s'])
        yield found(
            'due_in_paused_type', f'{due} due, the first for {oldest}, and of a type that is paused'
        )
    for switch in switches:
        kind, what = PAUSED_KINDS[switch['kind']]
        yield found(kind, what.format(switch['name']) + because(hide_addresses(switch['reason'])))


def judge_duties(
    duties: Iterable[Document], switches: Iterable[Document] = (), *, is_worked: bool
) -> Iterator[Problem]:
    """Judge the last run of each duty; one that is paused is not late."""
    paused = {switch['name'] for switch in switches if switch['kind'] == Paused.CRON}
    for duty in duties:
        name = duty['duty']
        if duty['outcome'] == 'error':
            yield found('duty_failed', f'{name} failed{because(fault(duty["detail"]))}')
        elif (
            is_worked
            and name not in paused
            and duty['outcome'] != 'skipped'
            and duty['started_s'] > LATE_DUTIES * EVERY_S.get(name, DAY_S)
        ):
            yield found('duty_late', f'{name} last ran {length(duty["started_s"])} ago')


def judge_services(services: Sequence[Document], *, is_worked: bool) -> Iterator[Problem]:
    """Judge what the workers' last check said of each service."""
    fresh = [service for service in services if service['checked_s'] <= CHECK_IS_OLD_S]
    if is_worked and services and not fresh:
        age = length(min(service['checked_s'] for service in services))
        yield found('checks_stopped', f'services were last checked {age} ago')
    for service in fresh:
        if service['status'] != 'up':
            yield found(
                'service_down',
                f'{service["service"]} is {service["status"]}{because(service["error"])}',
            )
