"""What can be done from the screen: pause, resume, send again. Each is asked for first."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from actions.audit import audited
from actions.call import queue_for
from actions.control import WorkerCommand, command_workers
from actions.retry import RetryTerms, retry_ids
from actions.switch import pause_switch, resume_switch
from db.switches import SwitchKind
from ops.connect import Connections
from ops.person import this_person
from ops.screen.details import SWITCHED
from ops.screen.lines import ScreenTarget
from ops.screen.look import FleetLook, is_paused
from ops.switching import MEANING, RESUMED, configured_names, operator
from reporting.live import Audience
from reporting.problems import Problem
from reporting.wording import SWITCH_WORDS, cell


@dataclass(frozen=True, slots=True)
class ScreenAct:
    """Something that is about to be done, once somebody says so.

    Attributes:
        question: What will happen.
        wants_reason: A reason is typed first; without one nothing is done.
        do: Gets the reason; returns what was done. Raises ProblemError.
    """

    question: str
    do: Callable[[str], Awaitable[str]]
    wants_reason: bool = False


def pause_or_resume(
    connections: Connections, target: ScreenTarget, look: FleetLook
) -> ScreenAct | None:
    """Return what p does to a target; None: it cannot be paused."""
    if target.kind == 'worker':
        return _worker(connections, target.name, look)
    if (kind := SWITCHED.get(target.kind)) is None:
        return None
    what = f'the {SWITCH_WORDS[kind]} {cell(target.name)}'
    if is_paused(look.document, kind, target.name):
        question = f'Resume {what}: {RESUMED[kind]}?'
        return ScreenAct(question, lambda _: _switch(connections, kind, target.name, None))
    return ScreenAct(
        f'Pause {what}, over restarts: {MEANING[kind]}.',
        lambda reason: _switch(connections, kind, target.name, reason),
        wants_reason=True,
    )


async def _switch(connections: Connections, kind: SwitchKind, name: str, reason: str | None) -> str:
    """Pause with a reason, resume without one."""
    details = {'kind': kind.value, 'name': name, 'word': 'pause' if reason else 'resume'}
    details |= {'reason': reason} if reason else {}
    async with audited(connections, this_person(), 'ops top', details):
        if reason is None:
            await resume_switch(connections, kind, name)
            return f'The {SWITCH_WORDS[kind]} {name} is resumed.'
        await pause_switch(
            connections, kind, name, by=operator(), reason=reason, force=True,
            configured=configured_names(connections.settings, kind),
        )  # fmt: skip
    return f'The {SWITCH_WORDS[kind]} {name} is paused; p resumes it.'


def _worker(connections: Connections, name: str, look: FleetLook) -> ScreenAct | None:
    worker = next((w for w in look.document['workers'] or () if w['worker'] == name), None)
    if worker is None:
        return None
    word = 'resume' if worker['state'] == 'paused' else 'pause'
    question = f'{word.capitalize()} the worker {cell(name)}, until it is restarted?'

    async def do(_: str) -> str:
        details = {'word': word, 'workers': [name]}
        async with audited(connections, this_person(), 'ops top', details) as entry:
            done = await command_workers(
                connections, WorkerCommand(word), Audience([name], timeout_s=2.0)
            )
            entry.problem = done.problems[0].what if done.problems else None
        return _told(done.problems) or f'{name} was told to {word}.'

    return ScreenAct(question, do)


def send_again(connections: Connections, target: ScreenTarget) -> ScreenAct | None:
    """Return what r does to a target; None: it is no e-mail."""
    if target.kind != 'mail':
        return None
    email_id, settings = int(target.name), connections.settings
    terms = RetryTerms(
        settings.email_expiry_hours, queue_for('send_email', routed=settings.queue_routing)
    )

    async def do(_: str) -> str:
        details = {'word': 'retry', 'ids': [email_id]}
        async with audited(connections, this_person(), 'ops top', details) as entry:
            done = await retry_ids(connections, [email_id], terms)
            entry.email_ids = done.retried
        for left in done.unchanged:
            return f'E-mail {email_id} was left as it is: {left.reason}.'
        return _told(done.problems) or f'E-mail {email_id} is due now.'

    return ScreenAct(f'Send e-mail {email_id} again?', do)


def _told(problems: list[Problem]) -> str:
    return '; '.join(problem.line for problem in problems)
