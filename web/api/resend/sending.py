"""POST /emails and POST /emails/batch: from a request to the answer after the commit."""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.requests import Request

from actions.tokens import token_named
from db.api_requests import RequestKey
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.traces import known_traceparent
from mail_outbox.validation import checked_row
from reporting.servers import Servers
from web.api.access import Principal
from web.api.problem import RefusalError
from web.api.resend.answers import batch_answer, sent_answer
from web.api.resend.body import Bodies, Body
from web.api.resend.intake import Intake, Submission
from web.api.resend.model import email_of, refusal_of_email
from web.api.resend.refusals import INVALID, INVALID_KEY, MISSING_FIELD, refused
from web.api.resend.senders import KnownSenders
from web.api.resend.suppressions import KnownSuppressions
from web.api.resend.templates import KnownTemplates

MOST_EMAILS = 100  # in a batch, as Resend has it
LONGEST_KEY = 256
SMALL_BODY_BYTES = 64 * 1024  # an e-mail that large shares a transaction with others
YIELD_EVERY_S = 0.005  # to others, while a batch is read
STRICT, PERMISSIVE = 'strict', 'permissive'

Row = Mapping[str, Any]


class Sending:
    """Takes e-mails from clients."""

    def __init__(self, servers: Servers, own_address: str, max_message_bytes: int) -> None:
        """Prepare.

        Args:
            own_address: The installation's, which every e-mail may be from.
            max_message_bytes: The most that workers send as one message.
        """
        self.bodies = Bodies()
        self._intake = Intake(servers)
        self._senders = KnownSenders(servers, own_address)
        self._templates = KnownTemplates(servers)
        self._suppressions = KnownSuppressions(servers)
        self._max_message_bytes = max_message_bytes

    async def send(self, request: Request, principal: Principal) -> str:
        """Queue one e-mail. Returns the answer, {"id": ...}.

        Raises:
            RefusalError, ProblemError: nothing was queued, or with the latter, maybe.
        """
        key = _key_of(request, principal)
        async with self.bodies.read(request, principal.owner) as body:
            row = await self._row_of(body.document, principal, request)
            answer = partial(sent_answer, suppressed=await self._suppressions.among(row))
            submission = Submission([row], key, body.digest, answer)
            return await self._intake.submit(
                submission, is_small=body.size_bytes <= SMALL_BODY_BYTES
            )

    async def send_batch(self, request: Request, principal: Principal) -> str:
        """Queue up to MOST_EMAILS e-mails. Returns the answer, {"data": [{"id": ...}, ...]}.

        All of them, or none: unless the client asks for those that are sound.

        Raises:
            RefusalError, ProblemError: nothing was queued, or with the latter, maybe.
        """
        key, is_permissive = _key_of(request, principal), _is_permissive(request)
        async with self.bodies.read(request, principal.owner) as body:
            documents = _batch_of(body)
            rows, errors = [], []
            yielded_at = time.monotonic()
            for place, document in enumerate(documents):
                if time.monotonic() - yielded_at > YIELD_EVERY_S:
                    await asyncio.sleep(0)
                    yielded_at = time.monotonic()
                try:
                    rows.append(await self._row_of(document, principal, request))
                except RefusalError as error:
                    if not is_permissive:
                        raise _in_batch(place, error) from error
                    errors.append({'index': place, 'message': error.refusal.detail})
            suppressed = await asyncio.gather(*map(self._suppressions.among, rows))
            answer = partial(
                batch_answer, suppressed=suppressed, errors=errors if is_permissive else None
            )
            return await self._intake.submit(
                Submission(rows, key, body.digest, answer), is_small=False
            )

    async def _row_of(self, document: Any, principal: Principal, request: Request) -> Row:
        email = email_of(document)
        if 'template_id' in email:
            email['template_id'] = await self._templates.id_of(email['template_id'])
        if principal.organization_id is not None:
            _bind(email, principal.organization_id)
        try:
            row = await checked_row({**email, 'max_bytes': self._max_message_bytes})
        except (InvalidEmailError, TypeError) as error:
            raise refusal_of_email(error) from error
        await self._senders.refuse_others(row)
        row['queued_by'] = token_named(principal.name)
        row['traceparent'] = known_traceparent(request.headers.get('traceparent'))
        return row


def _bind(email: dict[str, Any], organization_id: str) -> None:
    """Make an e-mail the token's organisation's."""
    given = email.get('organization_id')
    if given is not None and str(given) != organization_id:
        raise refused(
            INVALID, f'`organization_id` is {str(given)[:80]!r}, and the token is for another one',
            'leave it out', HTTPStatus.FORBIDDEN,
        )  # fmt: skip
    email['organization_id'] = (
        int(organization_id) if organization_id.isdecimal() else organization_id
    )


def _key_of(request: Request, principal: Principal) -> RequestKey | None:
    """Return the request's idempotency key: an organisation's, or the token's of this name."""
    given = request.headers.get('idempotency-key')
    if given is None:
        return None
    if not 1 <= len(given) <= LONGEST_KEY or '\0' in given:
        raise refused(
            INVALID_KEY, f'the Idempotency-Key has {len(given)} characters',
            f'give 1 to {LONGEST_KEY}', HTTPStatus.BAD_REQUEST,
        )  # fmt: skip
    return RequestKey(principal.owner, given)


def _is_permissive(request: Request) -> bool:
    mode = request.headers.get('x-batch-validation', STRICT)
    if mode not in (STRICT, PERMISSIVE):
        raise refused(
            INVALID, f'x-batch-validation is {mode[:80]!r}', f'give {STRICT} or {PERMISSIVE}'
        )
    return mode == PERMISSIVE


def _batch_of(body: Body) -> list[Any]:
    documents = body.document
    if not isinstance(documents, list):
        raise refused(INVALID, 'a batch must be an array of e-mails', 'give [{...}, {...}]')
    if not documents:
        raise refused(MISSING_FIELD, 'the batch is empty', 'give at least one e-mail')
    if len(documents) > MOST_EMAILS:
        raise refused(
            INVALID, f'the batch has {len(documents)} e-mails', f'give at most {MOST_EMAILS}'
        )
    return documents


def _in_batch(place: int, error: RefusalError) -> RefusalError:
    refusal = error.refusal
    return refused(
        refusal.kind, f'e-mail {place}: {refusal.detail}', refusal.remedy, refusal.status
    )
