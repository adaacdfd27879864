"""The page of the desk that shows what a problem is about."""

from collections.abc import Mapping
from dataclasses import replace

from db.selection import RETRYING
from mail_outbox.states import Status
from reporting.problems import Problem

# Where a person sees what a problem is about; the kinds are those of reporting.kinds.
SEEN_AT: Mapping[str, str] = {
    'no_worker': '/workers', 'unserved_queue': '/workers', 'broken_queue': '/workers',
    'foreign_worker': '/workers', 'all_paused': '/workers', 'paused_worker': '/workers',
    'hanging_worker': '/workers', 'held_loop': '/workers', 'different_settings': '/workers',
    'different_versions': '/workers', 'paused_queue': '/workers', 'paused_type': '/workers',
    'due_in_paused_type': '/workers', 'no_relay': '/relays', 'relay_cooling': '/relays',
    'paused_relay': '/relays', 'no_route': '/relays', 'webhook_failing': '/webhooks',
    'webhook_gave_up': '/webhooks', 'webhook_disabled': '/webhooks',
    'duty_failed': '/duties', 'duty_late': '/duties', 'paused_duty': '/duties',
    'checks_stopped': '/duties',
    'late': f'/mail?status={Status.PENDING}&status={RETRYING}',
    'past_expiry': f'/mail?status={Status.PENDING}', 'stuck': f'/mail?status={Status.SENDING}',
    'held': f'/mail?status={Status.HELD}', 'undecided': f'/mail?status={Status.UNCERTAIN}',
    'dead': '/mail?status=dead', 'poisoned': '/mail?status=dead',
    'failing': f'/mail?status={Status.FAILED}', 'refused': '/mail?status=dead',
}  # fmt: skip


def desk_page(desk_url: str | None, kind: str | None) -> str | None:
    """Return the address of the page about a kind of problem; None: there is none.

    Args:
        desk_url: Where people reach the desk; None: nobody said.
    """
    path = SEEN_AT.get(kind or '')
    return f'{desk_url.rstrip("/")}{path}' if desk_url and path else None


def page_of_mail(desk_url: str | None, email_id: int) -> str | None:
    """Return the address of an e-mail's page; None: nobody said where the desk is."""
    return f'{desk_url.rstrip("/")}/mail/{email_id}' if desk_url else None


def with_page(problem: Problem, desk_url: str | None) -> Problem:
    """Return a problem whose remedy also names the page about it, where there is one."""
    address = desk_page(desk_url, problem.kind)
    return replace(problem, remedy=f'{problem.remedy}; or {address}') if address else problem
