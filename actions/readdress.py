"""Correct whom an e-mail goes to, and send it again."""

import asyncio
from dataclasses import dataclass, field
from functools import partial

import asyncpg

from actions.emails import announce_due, idle_problems, why_not
from actions.retry import RetryTerms
from actions.safety import RequestError
from db import reports
from db.recipients import CORRECTABLE, correct
from db.suppressions import suppressed
from mail_outbox.address_fields import EXTRA_ADDRESSES, read_address_fields
from mail_outbox.envelope import Email, Extras, InvalidEmailError
from mail_outbox.states import Status
from reporting.problems import Document, Problem
from reporting.servers import Servers

SEE_LIST = '`python -m ops suppress rm ADDRESS` takes it off, with `--type TYPE` off that of a type'


@dataclass(frozen=True, slots=True)
class Readdressed:
    """What an e-mail's recipient is now, or would be."""

    dry_run: bool
    email_id: int
    before: str
    after: str
    warnings: list[str] = field(default_factory=list)  # what the operator should know before
    problems: list[Problem] = field(default_factory=list)


async def readdress(
    servers: Servers,
    email_id: int,
    recipient: str,
    terms: RetryTerms,
    *,
    seen: str | None = None,
    dry_run: bool = False,
) -> Readdressed:
    """Give an e-mail that was not sent another recipient, and make it due now.

    Args:
        recipient: As in outbound_emails: an address, or several with commas.
        seen: The recipient as the operator saw it; None: whatever it is.
    Raises:
        RequestError: there is no such e-mail, it is in no state for this, it has another recipient
            by now, or the new one cannot be used; nothing was changed.
        ProblemError: PostgreSQL does not answer; nothing was changed.
    """
    reading = partial(reports.read_email, email_id=email_id, with_content=False)
    email = await servers.ask_postgres(reading)
    _refuse_state(email, email_id)
    assert email is not None  # noqa: S101 - for mypy: refused above
    before, after = email['recipient'] or '', ' '.join(recipient.split())
    if seen is not None and seen != before:
        raise RequestError('somebody has given it another recipient meanwhile', 'look at it again')
    if after == before:
        raise RequestError('that is its recipient already', 'give another, or retry it as it is')
    addresses = await asyncio.to_thread(_addresses, email, after)
    await servers.ask_postgres(
        partial(_refuse_suppressed, addresses=addresses, email_type=email['email_type'])
    )
    done = Readdressed(dry_run, email_id, before, after, _warnings(email))
    if dry_run:
        return done
    correcting = partial(
        correct, email_id=email_id, before=email['recipient'], after=after,
        expiry_hours=terms.expiry_hours,
    )  # fmt: skip
    if not await servers.ask_postgres(correcting):
        raise RequestError('somebody changed it meanwhile', 'look at it again')
    await announce_due(servers, [email_id], terms.queue, done.problems)
    done.problems.extend(await idle_problems(servers, 1))
    return done


def _refuse_state(email: Document | None, email_id: int) -> None:
    if email is None:
        raise RequestError(f'there is no e-mail {email_id}', 'see the list for those there are')
    if email['status'] not in CORRECTABLE or email['is_emptied']:
        raise RequestError(f'e-mail {email_id}: {why_not(email)}', 'queue a new e-mail instead')


def _addresses(email: Document, recipient: str) -> list[str]:
    extras = Extras(**{name: email[name] for name in EXTRA_ADDRESSES})
    try:
        addresses = read_address_fields(Email(0, recipient, extras=extras))
    except InvalidEmailError as error:
        raise RequestError(str(error), 'correct the address') from error
    return list(addresses.envelope('').recipients)


async def _refuse_suppressed(
    pool: asyncpg.Pool, addresses: list[str], email_type: str | None
) -> None:
    found = await suppressed(pool, addresses, email_type)
    for address, reason in found.items():
        raise RequestError(f'{address} is on the list of those who get no mail: {reason}', SEE_LIST)


def _warnings(email: Document) -> list[str]:
    warnings = []
    if email['status'] == Status.UNCERTAIN:
        warnings.append('It may have been delivered to the old address.')
    if email['raw_message_bytes']:
        warnings.append('Its header To stays as it was written: only the envelope changes.')
    if email['cc'] or email['bcc']:
        warnings.append('Those in Cc and Bcc who have not got it yet get it, too.')
    return warnings
