"""What the OpenAPI document says of these paths; requests are read by web.api.resend.model."""

from typing import Any

from pydantic import BaseModel, Field

from web.api.resend.exact import made_exact, with_forms
from web.api.resend.model import ClientEmail, ClientTag, NewMoment


class ClientError(BaseModel):
    """A refusal, under one of Resend's names."""

    statusCode: int  # noqa: N815 - their name
    name: str
    message: str


class SentEmail(BaseModel):
    """An e-mail that is queued."""

    id: str
    suppressed: list[str] = Field(
        [],
        description='Recipients who get no mail, or none of its type: there only if there are any.',
    )


class RefusedEmail(BaseModel):
    """An e-mail of a batch that was left out."""

    index: int
    message: str


class SentBatch(BaseModel):
    """The e-mails of a batch that are queued, in its order."""

    data: list[SentEmail]
    errors: list[RefusedEmail] = Field([], description='Only with x-batch-validation: permissive.')


class ChangedEmail(BaseModel):
    """An e-mail that was rescheduled or cancelled."""

    object: str = 'email'
    id: str


class ListedMessage(BaseModel):
    """An e-mail by Resend's fields, without its bodies."""

    object: str = 'email'
    id: str
    message_id: str | None
    from_: str | None = Field(alias='from')
    to: list[str]
    cc: list[str] | None
    bcc: list[str] | None
    reply_to: list[str] | None
    subject: str | None
    created_at: str | None
    scheduled_at: str | None
    last_event: str
    tags: list[ClientTag]


class ListedEmail(ListedMessage):
    """An e-mail, with what is ours beside Resend's fields."""

    status: str
    priority: str | None
    email_type: str | None
    organization_id: str | None
    expires_at: str | None
    sent_at: str | None


class ShownEmail(ListedEmail):
    """An e-mail."""

    html: str | None
    text: str | None


class EmailList(BaseModel):
    """E-mails, the newest first."""

    object: str = 'list'
    has_more: bool
    data: list[ListedEmail]


def body_of(model: type[BaseModel], *, is_list: bool = False) -> dict[str, Any]:
    """Return how OpenAPI describes a body in JSON, without references."""
    schema = model.model_json_schema()
    schema = _inlined(schema, schema.pop('$defs', {}))
    schema = made_exact(schema) if model is ClientEmail else with_forms(schema)
    if is_list:
        schema = {'type': 'array', 'minItems': 1, 'maxItems': 100, 'items': schema}
    return {'requestBody': {'required': True, 'content': {'application/json': {'schema': schema}}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if reference := schema.get('$ref'):
        return _inlined(definitions[reference.rpartition('/')[2]], definitions)
    return {name: _inlined(part, definitions) for name, part in schema.items()}


ONE_EMAIL, BATCH, MOMENT = (
    body_of(ClientEmail),
    body_of(ClientEmail, is_list=True),
    body_of(NewMoment),
)
