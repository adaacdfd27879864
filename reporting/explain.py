"""Why an e-mail is not sent yet, when it will be, and what to do: facts are gathered, then judged.

reporting.reasons makes sentences of facts, reporting.next_step says what happens next.
"""

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Any

import asyncpg

from db import reports
from db.attachments import list_stored
from db.senders import unlisted_senders
from db.suppressions import suppressed
from db.switches import read_switches
from mail_outbox.address_fields import EXTRA_ADDRESSES, named_senders, read_address_fields
from mail_outbox.envelope import Email, Extras, InvalidEmailError
from mail_outbox.senders import WantedSender, refuse_unlisted
from reporting.blockers import EmailFacts, safety_switches
from reporting.live import ask_alive
from reporting.next_step import next_step, tries_again, where_now
from reporting.problems import NOBODY_REPLIED, Document, Problem, ProblemError
from reporting.reasons import reasons_of, refused_jobs, taken_back
from reporting.routes import route_reasons, slow_domain_reasons
from reporting.servers import Servers, answer_or_note
from reporting.wording import cell

CHECK_IS_FRESH_S = 180.0


async def explain_email(servers: Servers, email_id: int) -> tuple[Document, list[Problem]]:
    """Read the row, then whatever could stand in its way.

    A server that does not answer is among the problems, and what it knows is left out.

    Returns:
        A document with id, status, next (a sentence), due_at, because (what, remedy of each
        reason) and now (see next_step.where_now); and the problems.
    Raises:
        ProblemError: there is no such e-mail, or PostgreSQL does not answer.
    """
    reading = partial(reports.read_email, email_id=email_id, with_content=False)
    email = await servers.ask_postgres(reading)
    if email is None:
        raise ProblemError(await no_such_email(servers, email_id))
    problems: list[Problem] = []
    facts = await gather_facts(servers, email, problems)
    attempts = await servers.ask_postgres(partial(reports.read_attempts, email_id=email_id))
    found = [
        *safety_switches(facts),
        *reasons_of(email, facts),
        *refused_jobs(email, facts),
        *taken_back(attempts),
    ]
    if tries_again(email):
        found += [*route_reasons(email, facts), *slow_domain_reasons(facts)]
    if facts.anybody_alive is False and (tries_again(email) or email['status'] == 'sending'):
        problems.append(NOBODY_REPLIED)
    document: Document = {
        'id': email['id'],
        'status': email['status'],
        'next': next_step(email, has_worker=None),
        'due_at': (email['next_retry_at'] or email['read_at']) if tries_again(email) else None,
        'because': [asdict(reason) for reason in found],
        'now': where_now(email, facts.workers or ()) if email['status'] == 'sending' else None,
    }
    return document, problems


async def gather_facts(
    servers: Servers, email: dict[str, Any], problems: list[Problem]
) -> EmailFacts:
    """Ask Redis for the workers and PostgreSQL for the rest; MongoDB only about attachments."""
    # A hostile address takes some hundredths of a second, and the web server has a loop to turn.
    recipients, wanted, unreadable = await asyncio.to_thread(_read_addresses, email)
    reading = partial(_read_stored, email=email, recipients=recipients, wanted=wanted)
    has_content = email['content_id'] is not None or bool(email['has_attachments'])
    workers, stored, content = await asyncio.gather(
        answer_or_note(servers.ask_redis(ask_alive), problems),
        answer_or_note(servers.ask_postgres(reading), problems),
        read_attached(servers, email, problems),
    )
    return EmailFacts(
        workers=None if workers is None else workers[0],
        anybody_alive=None if workers is None else workers[1],
        recipients=recipients,
        unreadable=unreadable,
        content_missing=content == [] and has_content,
        content_unknown=content is None,
        **(stored or {}),
    )


def _read_addresses(email: Document) -> tuple[list[str], list[WantedSender], str | None]:
    """Return who it goes to, who it is to be from, and why an address cannot be read."""
    extras = Extras(**{name: email[name] for name in EXTRA_ADDRESSES})
    recipient, whose = email['recipient'] or '', email['organization_id']
    try:
        wanted = [WantedSender(field, who, whose) for field, who in named_senders(extras)]
        if not recipient.strip() and email['raw_message_bytes']:
            return [], wanted, None  # it goes to those that its header names
        addresses = read_address_fields(Email(0, recipient, extras=extras))
    except InvalidEmailError as error:
        return [], [], str(error)
    return list(addresses.envelope('').recipients), wanted, None


async def _read_stored(
    pool: asyncpg.Pool, email: dict[str, Any], recipients: list[str], wanted: list[WantedSender]
) -> dict[str, Any]:
    template_id = email['template_id']
    template = (
        await reports.read_template(pool, template_id, with_content=False) if template_id else None
    )
    ahead = await reports.read_ahead(
        pool, email['priority'], email['next_retry_at'] or email['read_at']
    )
    services = await reports.read_services(pool)
    refused = None
    try:
        refuse_unlisted(wanted, await unlisted_senders(pool, wanted) if wanted else None)
    except InvalidEmailError as error:
        refused = str(error)
    return {
        'switches': await read_switches(pool),
        'sender_refused': refused,
        'suppressed': await suppressed(pool, recipients, email['email_type']),
        'template_missing': bool(template_id) and template is None,
        'ahead': ahead['ahead'],
        'last_minute': ahead['last_minute'],
        'services_down': {
            s['service']: s['error']
            for s in services
            if s['status'] != 'up' and s['checked_s'] < CHECK_IS_FRESH_S
        },
    }


async def read_attached(
    servers: Servers, email: Document, problems: list[Problem]
) -> list[Document] | None:
    """Return an e-mail's attachments, without their data; None when MongoDB does not answer."""
    attached: list[Document] = []
    if email['content_id'] is not None:
        reading = partial(reports.read_attachments, content_id=email['content_id'])
        in_mongo = await answer_or_note(servers.ask_mongo(reading), problems)
        if in_mongo is None:
            return None
        attached += in_mongo
    if email['has_attachments']:
        attached += await servers.ask_postgres(partial(list_stored, email_id=email['id']))
    return attached


async def no_such_email(servers: Servers, email_id: int) -> Problem:
    """Say that there is no such row; and what its attempts were, when it was deleted meanwhile."""
    attempts = await servers.ask_postgres(partial(reports.read_attempts, email_id=email_id))
    if not attempts:
        return Problem(f'there is no e-mail {email_id}', 'see `python -m ops failed` for ids')
    made = '; '.join(
        f'attempt {a["attempt"]} at {cell(a["started_at"])} by {a["relay"] or "no relay"}: '
        f'{a["outcome"]}'
        for a in attempts
    )
    return Problem(
        f'there is no e-mail {email_id} any more: its row was deleted. {made}',
        'nothing will be sent',
    )
