"""An e-mail as Resend's clients give it: its fields, and ours beside them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails

from mail_outbox.envelope import Attachment, InvalidEmailError
from mail_outbox.field_checks import MAX_TAGS, Priority
from web.api.problem import RefusalError
from web.api.resend.attachments import as_integer, decoded, not_fetched
from web.api.resend.moments import scheduled_moment
from web.api.resend.refusals import (
    INVALID,
    INVALID_ATTACHMENT,
    INVALID_FROM,
    MISSING_FIELD,
    refused,
)

SEE_DOCUMENT = 'docs/api-sending.md has the fields'
MOST_ATTACHMENTS = 100
# pydantic tells every fault, a microsecond or more each: of a million the loop would be held.
MOST_FIELDS = 100
MOST_HEADERS = 1000
LONGEST_NAME = 80  # of a field, shown again

BASE64 = {'type': 'string', 'contentEncoding': 'base64', 'format': 'byte'}
BYTES = {'type': 'array', 'items': {'type': 'integer', 'minimum': 0, 'maximum': 255}}


def _moment(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError('must be text')  # noqa: TRY004 - pydantic wants a ValueError
    return scheduled_moment(value, datetime.now(UTC))


def _refuse_many(value: Any, most: int) -> Any:
    if isinstance(value, dict | list) and len(value) > most:
        raise ValueError(f'has {len(value)} fields, at most {most} are allowed')
    return value


def _header_fields(value: Any) -> Any:
    return _refuse_many(value, MOST_HEADERS)


def _addresses(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(address, str) for address in value):
        raise ValueError('must be an address, or an array of addresses')
    if not value:
        raise ValueError('has no address')
    return value


Addresses = Annotated[str | Annotated[list[str], Field(min_length=1)], BeforeValidator(_addresses)]
Content = Annotated[bytes, BeforeValidator(decoded), WithJsonSchema({'anyOf': [BASE64, BYTES]})]
Moment = Annotated[datetime, BeforeValidator(_moment), WithJsonSchema({'type': 'string'})]
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]  # a field that comes several times
HeaderFields = Annotated[dict[str, str] | list[Pair], BeforeValidator(_header_fields)]
TagWord = Annotated[str, Field(pattern=r'^[A-Za-z0-9_-]{1,256}$')]
Whole = Annotated[int, BeforeValidator(as_integer)]
Identifier = Annotated[
    int | str,
    BeforeValidator(as_integer),
    Field(description='As the table has it: a number, or text.'),
]


class ClientModel(BaseModel):
    """What a client gives. What is misspelt is refused and not lost; null counts as left out."""

    model_config = ConfigDict(extra='forbid', strict=True)

    @model_validator(mode='before')
    @classmethod
    def without_nulls(cls, value: Any) -> Any:
        """Leave out what is null.

        Raises:
            ValueError: it has more fields than anything has.
        """
        if not isinstance(value, dict):
            return value
        _refuse_many(value, MOST_FIELDS)
        return {name: part for name, part in value.items() if part is not None}


class ClientTag(ClientModel):
    """A tag."""

    name: TagWord
    value: TagWord


class ClientAttachment(ClientModel):
    """A file."""

    path: Annotated[None, BeforeValidator(not_fetched), WithJsonSchema({'type': 'null'})] = None
    content: Content
    filename: str | Literal[False] | None = None  # false: as the SDK for Node allows
    content_type: str | None = Field(None, description='Without one, as the name says.')
    content_id: str | None = Field(None, description='For the HTML to refer to as cid:...')
    inline_content_id: str | None = Field(None, description='The same under an older name.')

    def as_attachment(self) -> Attachment:
        """Return it as queue_email takes it."""
        cid = self.content_id or self.inline_content_id
        return Attachment(
            self.filename or None, self.content_type or None, self.content, cid or None
        )


class ClientTemplate(ClientModel):
    """A stored template, and what fills it."""

    id: Identifier
    variables: dict[str, Any] | None = None


class ClientMessage(ClientModel):
    """An e-mail by Resend's fields."""

    from_: str | None = Field(None, alias='from', description="Without one, the installation's.")
    to: Addresses | None = None
    cc: Addresses | None = None
    bcc: Addresses | None = None
    reply_to: Addresses | None = None
    subject: str | None = None
    html: str | None = None
    text: str | None = None
    headers: HeaderFields | None = None
    attachments: (
        Annotated[list[ClientAttachment], Field(max_length=MOST_ATTACHMENTS, fail_fast=True)] | None
    ) = None
    tags: Annotated[list[ClientTag], Field(max_length=MAX_TAGS, fail_fast=True)] | None = None
    scheduled_at: Moment | None = Field(
        None, description='ISO 8601, or such as "in 10 min", "tomorrow at 9am".'
    )
    template: ClientTemplate | None = None


class OwnFields(ClientModel):
    """What is ours beside Resend's fields, by the names of queue_email."""

    raw: Content | None = Field(None, description='The whole message, instead of its parts.')
    calendar: str | None = Field(None, description='An invite: iCalendar with its METHOD.')
    message_id: str | None = None
    one_copy_each: bool | None = None
    metadata: dict[str, Any] | None = None
    sender_address: str | None = None
    envelope_from: str | None = None
    email_type: str | None = None
    priority: Priority | None = None
    expires_at: Moment | None = None
    max_attempts: Whole | None = None
    user_id: Identifier | None = None
    organization_id: Identifier | None = None


class TemplateFields(ClientModel):
    """The template of an e-mail, by the names of queue_email."""

    template_id: Identifier | None = None
    template_data: dict[str, Any] | None = None
    locale: str | None = Field(None, description="A language tag: which of the template's texts.")
    template_version: Whole | None = Field(None, description='By default the newest when sent.')


class ClientEmail(ClientMessage, OwnFields, TemplateFields):
    """An e-mail."""


# How queue_email calls what has another name here.
ARGUMENTS: Mapping[str, str] = {
    'from_': 'from_address',
    'to': 'recipient',
    'html': 'body_html',
    'text': 'body_text',
    'scheduled_at': 'send_at',
}
NAMES_HERE = {argument: name.rstrip('_') for name, argument in ARGUMENTS.items()}
SPECIAL = {'attachments', 'tags', 'template'}
PLAIN = {
    name: ARGUMENTS.get(name, name) for name in ClientEmail.model_fields if name not in SPECIAL
}
UNSUPPORTED: Mapping[str, str] = {'topic_id': 'there are no topics here: leave it out'}


def email_of(document: Any) -> dict[str, Any]:
    """Return the arguments of queue_email for an e-mail in Resend's form.

    Raises:
        RefusalError: names the field and the remedy.
    """
    if not isinstance(document, dict):
        raise refused(INVALID, 'an e-mail must be an object', 'give {"to": ..., ...}')
    try:
        client_email = ClientEmail.model_validate(document)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_context=False)[0]) from error
    email = {
        argument: value
        for name, argument in PLAIN.items()
        if (value := getattr(client_email, name)) is not None
    }
    if client_email.tags is not None:
        email['tags'] = _tags(client_email.tags)
    if client_email.attachments:
        email['attachments'] = [file.as_attachment() for file in client_email.attachments]
    if client_email.template is not None:
        email['template_id'] = client_email.template.id
        email['template_data'] = client_email.template.variables
    _check_content(email)
    return email


def _tags(tags: list[ClientTag]) -> dict[str, str]:
    found = {tag.name: tag.value for tag in tags}
    if len(found) < len(tags):
        raise refused(INVALID, '`tags` has a name twice', 'give each name once')
    return found


def _check_content(email: Mapping[str, Any]) -> None:
    if 'raw' in email:
        return
    if 'recipient' not in email:
        raise refused(MISSING_FIELD, 'Missing `to` field', 'give an address, or several')
    if 'template_id' in email:
        return
    if 'subject' not in email:
        raise refused(MISSING_FIELD, 'Missing `subject` field', 'give it, or a template')
    if 'body_html' not in email and 'body_text' not in email:
        raise refused(MISSING_FIELD, 'Missing `html` or `text` field', 'give one, or a template')


def _refusal(fault: ErrorDetails) -> RefusalError:
    """Return what a client is told of the first field that is wrong."""
    where = '.'.join(str(part)[:LONGEST_NAME] for part in fault['loc'])
    match fault['type']:
        case 'missing':
            return refused(MISSING_FIELD, f'Missing `{where}` field', SEE_DOCUMENT)
        case 'extra_forbidden':
            remedy = UNSUPPORTED.get(where, f'leave it out; {SEE_DOCUMENT}')
            return refused(INVALID, f'`{where}` is no field of an e-mail here', remedy)
    name = INVALID_ATTACHMENT if fault['loc'][:1] == ('attachments',) else INVALID
    words = fault['msg'].removeprefix('Value error, ')
    return refused(name, f'`{where or "body"}`: {words[:300]}', SEE_DOCUMENT)


def refusal_of_email(error: InvalidEmailError | TypeError) -> RefusalError:
    """Return what a client is told of an e-mail that can never be sent."""
    field, colon, why = str(error).partition(':')
    field = NAMES_HERE.get(field, field)
    detail = f'`{field}`:{why}' if colon else str(error)
    return refused(INVALID_FROM if field == 'from' else INVALID, detail, SEE_DOCUMENT)


def moment_from(document: Any) -> datetime:
    """Return the moment of a request that changes it: {"scheduled_at": ...}.

    Raises:
        RefusalError.
    """
    try:
        return NewMoment.model_validate(document).scheduled_at
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_context=False)[0]) from error


class NewMoment(ClientModel):
    """When an e-mail is to be sent instead."""

    id: Any = None  # the SDK for Python repeats that of the path
    scheduled_at: Moment
