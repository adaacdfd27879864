"""Everything that can be wrong, how grave it is, and what to do: the table of reporting.judge."""

from collections.abc import Mapping
from dataclasses import dataclass

from reporting.problems import NOBODY_REPLIED, Level, Problem


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """One kind of problem.

    is_settled: an operator wanted it, or nothing more can happen; the doctor only notes it.
    """

    level: Level
    remedy: str
    is_settled: bool = False


ACT, LOOK = Level.ACT, Level.LOOK
KINDS: Mapping[str, ProblemKind] = {
    # Workers and queues.
    'no_worker': ProblemKind(ACT, NOBODY_REPLIED.remedy),
    'unserved_queue': ProblemKind(ACT, 'start a worker for it, or see who puts jobs there'),
    'broken_queue': ProblemKind(ACT, 'rename that key: arq cannot use the queue before'),
    'foreign_worker': ProblemKind(
        ACT,
        'give each application a Redis database of its own '
        '(the number at the end of ARQ_REDIS_URL), or queues and a server of its own',
    ),
    'no_relay': ProblemKind(
        ACT, '`python -m ops relay ls` says why; mend the relay or its settings, or resume it'
    ),
    'relay_cooling': ProblemKind(
        LOOK, '`python -m ops relay ls` says when it is tried again; see its log'
    ),
    'no_route': ProblemKind(
        ACT, '`python -m ops relay ls` says why; its mail waits: mend a relay, or change ROUTES'
    ),
    'paused_relay': ProblemKind(
        LOOK, '`python -m ops relay resume NAME` when the reason is gone', is_settled=True
    ),
    'all_paused': ProblemKind(
        LOOK,
        '`python -m ops control resume`, with --queue NAME for a queue, when the reason is gone',
    ),
    'safety_switch': ProblemKind(
        ACT, 'as it should be in staging; else take the variable away, and restart the workers'
    ),
    'paused_worker': ProblemKind(
        LOOK, '`python -m ops control resume` when the reason is gone', is_settled=True
    ),
    'hanging_worker': ProblemKind(
        LOOK,
        'see `python -m ops control stacks`; lower WORKER_MAX_JOBS, or give it a CPU of its own',
    ),
    'held_loop': ProblemKind(
        LOOK,
        'its log says `loop.blocked`, with the code; `python -m ops show ID` for these e-mails',
    ),
    'lost_log_lines': ProblemKind(
        LOOK, 'see why nobody reads its standard error: journald, a pipe, a full disk'
    ),
    'different_settings': ProblemKind(
        LOOK, 'restart those that were left out; `python -m ops inspect conf` shows the differences'
    ),
    'different_versions': ProblemKind(LOOK, 'restart those that were left out'),
    # SMTP ingresses.
    'ingress_gone': ProblemKind(
        ACT,
        'start `python -m ingress` there, or see why it ends: its log; '
        'one that is not wanted any more is forgotten after a day',
    ),
    'ingress_full': ProblemKind(
        LOOK, 'see who connects so often, or raise INGRESS_MAX_CONNECTIONS'
    ),
    'ingress_certificate': ProblemKind(
        LOOK, 'renew it: INGRESS_TLS_CERTIFICATE is read again within half a minute'
    ),
    'ingress_certificate_ends': ProblemKind(
        ACT, 'renew it: INGRESS_TLS_CERTIFICATE is read again within half a minute'
    ),
    # The outbox.
    'late': ProblemKind(
        ACT,
        '`python -m ops qshape` tells which, `python -m ops explain ID` why; or start more workers',
    ),
    'stuck': ProblemKind(ACT, 'start a worker; see `lease.not_renewed` in the log'),
    'held': ProblemKind(LOOK, '`python -m ops held ls`, then `held release` or `held cancel`'),
    'undecided': ProblemKind(
        LOOK, '`python -m ops failed`, then `resolve` or `retry`: they wait for you'
    ),
    'past_expiry': ProblemKind(LOOK, 'see why mail was late: `python -m ops failed`'),
    'poisoned': ProblemKind(LOOK, "`python -m ops failed --dead`; read those workers' logs"),
    'dead': ProblemKind(
        LOOK,
        '`python -m ops failed --dead` says why; then `retry`, or `purge outbox --dead`',
        is_settled=True,
    ),
    'due_in_paused_type': ProblemKind(
        LOOK, '`python -m ops control resume --type NAME` when the reason is gone', is_settled=True
    ),
    'paused_type': ProblemKind(
        LOOK, '`python -m ops control resume --type NAME` when the reason is gone', is_settled=True
    ),
    'paused_queue': ProblemKind(
        LOOK, '`python -m ops control resume --queue NAME` when the reason is gone', is_settled=True
    ),
    'paused_duty': ProblemKind(
        LOOK, '`python -m ops cron resume NAME` when the reason is gone', is_settled=True
    ),
    'failing': ProblemKind(ACT, '`python -m ops failed --since 1h` says why'),
    'refused': ProblemKind(LOOK, '`python -m ops failed --since 1h` says why'),
    # Webhooks.
    'webhook_failing': ProblemKind(
        LOOK, 'see to the receiver; `python -m ops webhook deliveries ID` says what it answers'
    ),
    'webhook_gave_up': ProblemKind(
        ACT, '`python -m ops webhook replay ID --since 2d` when the receiver works'
    ),
    'webhook_disabled': ProblemKind(
        LOOK, '`python -m ops webhook enable ID`, or rm', is_settled=True
    ),
    # Duties and services.
    'duty_failed': ProblemKind(ACT, "see `duty.failed` in the worker's log"),
    'duty_late': ProblemKind(ACT, 'see why no worker runs it'),
    'checks_stopped': ProblemKind(ACT, 'see why no worker runs check_service_health'),
    'service_down': ProblemKind(ACT, 'start it, or correct its settings'),
}


def found(kind: str, what: str, remedy: str | None = None) -> Problem:
    """Return a finding of a kind of the table; remedy: a better one than the table's."""
    entry = KINDS[kind]
    return Problem(what, remedy or entry.remedy, level=entry.level, kind=kind)


def is_settled(problem: Problem) -> bool:
    """Whether an operator wanted it so, or nothing more can happen to it."""
    return problem.kind is not None and KINDS[problem.kind].is_settled
