"""E-mails: a page of those that fit, and everything about one."""

from functools import partial
from http import HTTPStatus
from typing import Annotated

import asyncpg
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from actions.tokens import ApiScope
from db import reports
from db.email_list import LAST_ID, ids_of_organization, list_emails
from db.selection import DEAD
from mail_outbox.states import Status
from reporting.explain import explain_email
from reporting.mail_filter import MailFilter, Moment, make_selection
from reporting.problems import Document, ProblemError
from reporting.servers import Servers
from web.api.access import Principal, require
from web.api.answers import OF_ONE_EMAIL, json_answer, refusals, told
from web.api.documents import EmailPage, OneEmail
from web.api.fields import Address, Cursor, EmailId, PageSize, ShortText, Time, one_of
from web.api.parts import Api, api_of
from web.api.problem import Refusal, RefusalError

router = APIRouter(prefix='/api/emails', tags=['e-mails'])

StatusWord = Annotated[str, one_of([*Status, DEAD])]
Reader = Annotated[Principal, Depends(require(ApiScope.READ))]
Parts = Annotated[Api, Depends(api_of)]
CONTENT = ('body_text', 'body_html', 'template_data', 'read_at')


class EmailConditions(BaseModel):
    """Conditions that must all be true; without any, every e-mail."""

    model_config = ConfigDict(extra='forbid')

    recipient: Address | None = Field(
        default=None, description='An address among the recipients, or @example.com for a domain.'
    )
    email_type: ShortText | None = None
    tag: ShortText | None = Field(
        default=None, description='The name of a tag, or name=value.', examples=['campaign=may']
    )
    message_id: ShortText | None = Field(default=None, description='With or without its brackets.')
    relay: ShortText | None = Field(default=None, description='Of the last attempt, by its name.')
    error_like: ShortText | None = Field(
        default=None, description='In the last error or reply, in any case; % is anything.'
    )
    subject_like: ShortText | None = Field(
        default=None, description='In the subject, in any case; % is anything.'
    )
    created_since: Time | None = None
    created_until: Time | None = None
    tried_since: Time | None = Field(
        default=None,
        description='Last tried at or after it; of held ones: due; of ended ones: ended.',
    )
    tried_until: Time | None = None

    def as_filter(self, principal: Principal) -> MailFilter:
        """Return the conditions for the actions; a token's organisation is one of them."""
        recipient, domain = self.recipient, None
        if recipient is not None and recipient.startswith('@'):
            recipient, domain = None, recipient
        tag, _, tag_value = (self.tag or '').partition('=')
        message_id = self.message_id and f'<{self.message_id.strip("<> ")}>'
        return MailFilter(
            since=Moment(at=self.tried_since) if self.tried_since else None,
            until=Moment(at=self.tried_until) if self.tried_until else None,
            error_like=self.error_like,
            domain=domain,
            email_type=self.email_type,
            relay=self.relay,
            recipient=recipient,
            message_id=message_id,
            organization_id=principal.organization_id,
            created_since=self.created_since,
            created_until=self.created_until,
            tag=tag or None,
            tag_value=tag_value or None,
            subject_like=self.subject_like,
        )


class EmailQuery(EmailConditions):
    """A page of e-mails."""

    status: list[StatusWord] = Field(
        default=[], max_length=20,
        description='Any of these; `dead` is failed without a further attempt.',
    )  # fmt: skip
    limit: PageSize = 50
    cursor: Cursor | None = None


TOO_SLOW = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE, 'too-slow', 'so few e-mails fit that too many were looked at',
    'narrow it down with created_since and created_until',
)  # fmt: skip


@router.get('', response_model=EmailPage, responses=refusals(), operation_id='list_emails')
async def list_page(
    api: Parts, principal: Reader, query: Annotated[EmailQuery, Query()]
) -> Response:
    """List e-mails, the newest first, page by page. Bodies are never shown.

    Where few fit, a page may be short, even empty: next_cursor goes on.
    """
    servers = api.servers
    selection = await make_selection(
        servers, query.as_filter(principal), tuple(query.status) or None
    )
    before_id = min(int(query.cursor or LAST_ID), LAST_ID)
    listing = partial(list_emails, selection=selection, before_id=before_id, limit=query.limit)
    try:
        found = await servers.ask_postgres(listing)
    except ProblemError as error:
        if isinstance(error.__cause__, asyncpg.QueryCanceledError):
            raise RefusalError(TOO_SLOW) from error
        raise
    more = found.goes_on_before
    return json_answer({'emails': found.rows, 'next_cursor': more and str(more)})


@router.get(
    '/{email_id:id}', response_model=OneEmail, responses=refusals(OF_ONE_EMAIL),
    operation_id='read_email',
)  # fmt: skip
async def read_one(api: Parts, principal: Reader, email_id: EmailId) -> Response:
    """Tell everything about one e-mail: its row, every attempt, what happens next and why."""
    await require_visible(api.servers, principal, email_id)
    reading = partial(reports.read_email, email_id=email_id, with_content=False)
    email = await api.servers.ask_postgres(reading)
    if email is None:
        raise RefusalError(no_such(email_id))
    attempts = await api.servers.ask_postgres(partial(reports.read_attempts, email_id=email_id))
    explanation, problems = await explain_email(api.servers, email_id)
    return json_answer({
        'email': {name: value for name, value in email.items() if name not in CONTENT},
        'attempts': attempts,
        'explanation': _explained(explanation),
        'problems': told(problems),
    })  # fmt: skip


def _explained(explanation: Document) -> Document:
    return {name: explanation[name] for name in ('next', 'due_at', 'because', 'now')}


def no_such(email_id: int) -> Refusal:
    """Say that there is no such e-mail, or that it is another organisation's: the same words."""
    return Refusal(
        HTTPStatus.NOT_FOUND, 'no-such-email', f'there is no e-mail {email_id}',
        'GET /api/emails lists those there are',
    )  # fmt: skip


async def require_visible(servers: Servers, principal: Principal, email_id: int) -> None:
    """Refuse an e-mail that there cannot be, or that is another organisation's.

    Raises:
        RefusalError: 404, as for one that does not exist.
    """
    if email_id > LAST_ID:
        raise RefusalError(no_such(email_id))
    organization_id = principal.organization_id
    if organization_id is None:
        return
    asking = partial(ids_of_organization, email_ids=[email_id], organization_id=organization_id)
    if not await servers.ask_postgres(asking):
        raise RefusalError(no_such(email_id))
