"""What a person may do about everything but e-mails: a table, and one page that asks first.

GET says what would happen, POST does it once and writes it down, as with decisions about e-mails.
"""

import secrets
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import Response

from actions.audit import AuditEntry
from actions.call import run_duty
from actions.control import WorkerCommand, command_workers
from actions.safety import RequestError
from actions.senders import allow, disallow
from actions.suppress import suppress_addresses, unsuppress_addresses
from actions.switch import pause_switch, resume_switch
from actions.template_preview import send_test
from db.api_tokens import revoke_token
from db.senders import sender_pattern
from db.suppressions import suppression_key
from db.switches import SwitchKind
from mail_outbox.envelope import InvalidEmailError
from reporting.live import Audience
from reporting.problems import Problem
from reporting.wording import SWITCH_WORDS, counted
from web.api.problem import Refusal, RefusalError
from web.auth.forms import read_form
from web.auth.people import Role
from web.pages.act_kinds import ActKind, ActRequest
from web.pages.changes import ChangeUnderWay
from web.pages.decisions import request_key_of
from web.pages.desk import actor, desk_of, page, person, see_other
from web.pages.webhook_acts import WEBHOOK_ACTS

router = APIRouter(include_in_schema=False)

LONGEST_NAME = 320
LONGEST_REASON = 200
LONGEST_KIND = 200  # a type of e-mail


async def _pause(asked: ActRequest) -> tuple[list[str], list[Problem]]:
    done = await pause_switch(
        asked.servers, _switch_kind(asked), asked.name, by=asked.by,
        reason=asked.reason or None, dry_run=asked.dry_run,
    )  # fmt: skip
    said = [] if done.waiting is None else [f'{counted(done.waiting)} of this type wait']
    if done.already:
        said.append('it is paused already')
    return [*said, _hearing(done.workers)], []


async def _resume(asked: ActRequest) -> tuple[list[str], list[Problem]]:
    done = await resume_switch(
        asked.servers, _switch_kind(asked), asked.name, dry_run=asked.dry_run
    )
    said = [] if done.waiting is None else [f'{counted(done.waiting)} of this type wait']
    return [*said, _hearing(done.workers)], []


def _hearing(workers: int | None) -> str:
    if workers is None:
        return 'nobody knows how many workers will hear of it: Redis does not answer'
    return f'{counted(workers, "worker hears", "workers hear")} of it within seconds'


def _switch_kind(asked: ActRequest) -> SwitchKind:
    try:
        return SwitchKind(asked.kind)
    except ValueError:
        raise RequestError('there is nothing of this kind', 'go back, and choose one') from None


async def _tell_worker(asked: ActRequest, command: str) -> tuple[list[str], list[Problem]]:
    done = await command_workers(
        asked.servers, WorkerCommand(command), Audience([asked.name]), dry_run=asked.dry_run
    )
    return [f'told: {", ".join(done.workers) or "nobody"}'], done.problems


async def _run_duty(asked: ActRequest) -> tuple[list[str], list[Problem]]:
    done = await run_duty(asked.servers, asked.name, dry_run=asked.dry_run)
    return [f'goes to the queue {done.call.queue}'], done.problems


async def _suppress(asked: ActRequest) -> tuple[list[str], list[Problem]]:
    key = _key_of(asked.name)
    done = await suppress_addresses(
        asked.servers, [key], asked.reason or 'by an operator', created_by=asked.by,
        email_type=_type_of(asked), dry_run=asked.dry_run,
    )  # fmt: skip
    return [f'gets no mail{_of_type(asked.kind)}: {", ".join(done.keys)}'], []


async def _unsuppress(asked: ActRequest) -> tuple[list[str], list[Problem]]:
    done = await unsuppress_addresses(
        asked.servers, [_key_of(asked.name)], email_type=_type_of(asked), dry_run=asked.dry_run
    )
    if done.missing:
        raise RequestError(f'{asked.name} is not on the list', 'see the list')
    return ['what was not sent stays so; new mail goes out'], []


def _type_of(asked: ActRequest) -> str | None:
    """Return the type that is meant; None for every."""
    return asked.kind.strip() or None


def _of_type(kind: str) -> str:
    return f' of the type {kind}' if kind.strip() else ''


def _key_of(name: str) -> str:
    try:
        return suppression_key(name)
    except InvalidEmailError as error:
        what = f'{name!a} is neither an address nor @ and a domain'
        raise RequestError(what, 'correct it') from error


async def _allow_sender(asked: ActRequest) -> tuple[list[str], list[Problem]]:
    done = await allow(
        asked.servers, [_pattern_of(asked.name)], created_by=asked.by, dry_run=asked.dry_run
    )
    return ['it may be used already' if done.known else 'e-mails may be from it'], []


async def _disallow_sender(asked: ActRequest) -> tuple[list[str], list[Problem]]:
    done = await disallow(asked.servers, [_pattern_of(asked.name)], dry_run=asked.dry_run)
    if done.missing:
        raise RequestError(f'{asked.name} is not on the list of everybody', 'see the list')
    return ['what waits and is from it will not be sent'], []


def _pattern_of(name: str) -> str:
    try:
        return sender_pattern(name)
    except InvalidEmailError as error:
        what = f'{name!a} is neither an address nor @ and a domain'
        raise RequestError(what, 'correct it') from error


async def _test_template(asked: ActRequest) -> tuple[list[str], list[Problem]]:
    template, _, locale = asked.kind.partition(' ')
    email_id = await send_test(
        asked.servers, template, asked.name, locale=locale or None, dry_run=asked.dry_run
    )
    return [] if email_id is None else [f'e-mail {email_id} is queued'], []


async def _revoke_token(asked: ActRequest) -> tuple[list[str], list[Problem]]:
    if not asked.dry_run:
        revoked = await asked.servers.ask_postgres(partial(revoke_token, name=asked.name))
        if revoked is None:
            raise RequestError(f'there is no token {asked.name!r} in use', 'see the list')
    return ['whoever uses it is refused within seconds, and logged out of the desk'], []


ACTS: Mapping[str, ActKind] = {
    'pause': ActKind(
        Role.OPERATE, 'Pause the {kind} {name}', 'It stays paused, over restarts, until resumed.',
        'Pause', 'switch.pause', _pause, '/', wants_reason=True,
    ),
    'resume': ActKind(
        Role.OPERATE, 'Resume the {kind} {name}', 'It goes on at once.', 'Resume',
        'switch.resume', _resume, '/',
    ),
    'pause-worker': ActKind(
        Role.OPERATE, 'Pause the worker {name}',
        'It claims nothing more until it is resumed or restarted.', 'Pause',
        'worker.pause', partial(_tell_worker, command='pause'), '/workers', wants_reason=True,
    ),
    'resume-worker': ActKind(
        Role.OPERATE, 'Resume the worker {name}', 'It claims again.', 'Resume',
        'worker.resume', partial(_tell_worker, command='resume'), '/workers',
    ),
    'stop-worker': ActKind(
        Role.OPERATE, 'Stop the worker {name}',
        'What it sends may finish; the service manager starts it again, if there is one.', 'Stop',
        'worker.stop', partial(_tell_worker, command='shutdown'), '/workers', wants_reason=True,
    ),
    'run-duty': ActKind(
        Role.OPERATE, 'Run the duty {name} now', 'One worker runs it, besides its slots.', 'Run',
        'duty.run', _run_duty, '/duties',
    ),
    'suppress': ActKind(
        Role.OPERATE, 'Send nothing more{of_type} to {name}',
        'E-mails to it are not sent; those with other recipients leave it out.', 'Suppress',
        'suppression.add', _suppress, '/suppressions', wants_reason=True,
    ),
    'unsuppress': ActKind(
        Role.OPERATE, 'Let {name} get mail{of_type} again', 'It is taken off the list.',
        'Take off the list',
        'suppression.remove', _unsuppress, '/suppressions', wants_reason=True,
    ),
    'allow-sender': ActKind(
        Role.ADMINISTER, 'Let e-mails be from {name}', 'For every organisation.', 'Allow',
        'sender.add', _allow_sender, '/senders',
    ),
    'disallow-sender': ActKind(
        Role.ADMINISTER, 'No more e-mails from {name}', 'It is taken off the list.', 'Disallow',
        'sender.remove', _disallow_sender, '/senders',
    ),
    'test-template': ActKind(
        Role.OPERATE, 'Send {name} a test of the template {kind}',
        'It is filled with its sample, and sent as every e-mail.', 'Send',
        'template.test', _test_template, '/templates',
    ),
    'revoke-token': ActKind(
        Role.ADMINISTER, 'Revoke the token {name}', 'It cannot be used again.', 'Revoke',
        'token.revoke', _revoke_token, '/tokens', wants_reason=True,
    ),
    **WEBHOOK_ACTS,
}  # fmt: skip


def _act_of(word: str) -> ActKind:
    if word not in ACTS:
        what = 'there is no such action'
        raise RefusalError(Refusal(HTTPStatus.NOT_FOUND, 'no-such-path', what, 'go back'))
    return ACTS[word]


def _name(text: str) -> str:
    """Return a name as it is shown: what cannot be seen belongs to no name."""
    return ''.join(filter(str.isprintable, text)).strip()[:LONGEST_NAME]


def _title(act: ActKind, name: str, kind: str) -> str:
    words = {kind.value: word for kind, word in SWITCH_WORDS.items()}
    return act.title.format(name=name, kind=words.get(kind, kind), of_type=_of_type(kind))


@router.get('/act/{word}')
async def act_page(request: Request, word: str) -> Response:
    """Say what an action would do, and ask for it."""
    act = _act_of(word)
    visitor, desk = await person(request, act.role, of_all=True), desk_of(request)
    params = request.query_params
    name = _name(params.get('name', ''))
    kind = _name(params.get('kind', ''))[:LONGEST_KIND]
    told: list[str] = []
    problems: list[Problem] = []
    refused = False
    try:
        asked = ActRequest(desk.servers, name, kind, actor(visitor).name, '', dry_run=True)
        told, problems = await act.do(asked)
    except RequestError as error:
        problems, refused = [error.problem], True
    return await page(
        request, visitor, 'act.html', act=act, word=word, name=name, kind=kind,
        title=_title(act, name, kind), told=told, problems=problems, refused=refused,
        request_key=secrets.token_urlsafe(16), longest=LONGEST_REASON,
    )  # fmt: skip


@router.post('/act/{word}')
async def do_act(request: Request, word: str) -> Response:
    """Do it, once, and lead back to where it shows."""
    act = _act_of(word)
    visitor, desk = await person(request, act.role, of_all=True), desk_of(request)
    form = await read_form(request, visitor)
    name, kind = _name(form.one('name')), _name(form.one('kind'))[:LONGEST_KIND]
    reason = ' '.join(form.one('reason').split())[:LONGEST_REASON]
    asked = ActRequest(desk.servers, name, kind, actor(visitor).name, reason, dry_run=False)

    async def make(_: AuditEntry, progress: ChangeUnderWay) -> None:
        progress.told, progress.problems = await act.do(asked)

    details = {
        'name': name, 'kind': kind or None, 'reason': reason or None, 'at': 'desk',
    }  # fmt: skip
    entry_id = await desk.changes.make(
        actor(visitor), act.audit, details, request_key_of(form), make
    )
    desk.forget_paused()
    return see_other(request, f'/changes/{entry_id}')
