"""What the description says of an e-mail beyond types: which fields go together, and their forms.

Requests are checked by web.api.resend.model and by queue_email, whose words a client reads. Forms
that no pattern says have names of our own under `format`; docs/api-sending.md tells what they are.
"""

from typing import Any

from mail_outbox.envelope import MAX_SUBJECT_CHARS
from mail_outbox.field_checks import MAX_ATTEMPTS, MAX_WORD_CHARS
from mail_outbox.locales import LOCALE, MAX_LOCALE_CHARS
from web.api.resend.moments import LONGEST_CHARS

Schema = dict[str, Any]

LINE = r'^[^\x00\r\n]*$'
TEXT = r'^[^\x00]*$'


def _each(schema: Schema, *names: str) -> dict[str, Schema]:
    return {name: {**schema} for name in names}


_WORD: Schema = {'minLength': 1, 'maxLength': MAX_WORD_CHARS, 'pattern': LINE}
_MOMENT: Schema = {'format': 'moment', 'maxLength': LONGEST_CHARS}
# What is added to each text of a field; and to its numbers.
OF_TEXTS: dict[str, Schema] = {
    **_each({'format': 'address-list'}, 'to', 'cc', 'bcc', 'reply_to'),
    **_each({'format': 'mailbox'}, 'from', 'sender_address', 'envelope_from'),
    'subject': {'maxLength': MAX_SUBJECT_CHARS, 'pattern': LINE},
    **_each({'pattern': TEXT}, 'html', 'text'),
    'headers': {'format': 'header-field'},
    'scheduled_at': _MOMENT,
    'expires_at': _MOMENT,
    'message_id': {'format': 'message-id'},
    'calendar': {'format': 'icalendar'},
    'email_type': _WORD,
    'locale': {'maxLength': MAX_LOCALE_CHARS, 'pattern': LOCALE},
    **_each({'format': 'identifier', **_WORD}, 'user_id', 'organization_id'),
    **_each(_WORD, 'template_id', 'id'),
    'filename': {'format': 'file-name'},
    'content_type': {'format': 'media-type'},
    **_each({'format': 'content-id'}, 'content_id', 'inline_content_id'),
}
_BIGINT: Schema = {'minimum': -(2**63), 'maximum': 2**63 - 1}
OF_NUMBERS: dict[str, Schema] = {
    **_each(_BIGINT, 'user_id', 'organization_id', 'template_id', 'id'),
    'max_attempts': {'minimum': 1, 'maximum': MAX_ATTEMPTS},
    'template_version': {'minimum': 1, 'maximum': 2**31 - 1},
}
NOTHING: Schema = {'type': 'null'}


def with_forms(schema: Schema) -> Schema:
    """Return the description of a body with the forms of its texts and numbers."""
    fields = {name: _exact(name, part) for name, part in schema['properties'].items()}
    return schema | {'properties': fields}


def made_exact(schema: Schema) -> Schema:
    """Return the description of ClientEmail with all that can be said of it."""
    fields = with_forms(schema)['properties']
    fields['headers']['anyOf'][0]['propertyNames'] = {'format': 'header-field'}
    ways = [
        _way('to', 'template'),
        _way('to', 'template_id'),
        _way('to', 'subject', 'html'),
        _way('to', 'subject', 'text'),
    ]
    return schema | {'properties': fields, 'anyOf': [*ways, RAW]}


def _way(*names: str) -> Schema:
    """Return what an e-mail has that consists of these; null counts as left out."""
    given = {name: {'not': NOTHING} for name in names}
    return {'required': list(names), 'properties': {**given, 'raw': NOTHING}}


NOT_BESIDE_RAW = (
    'from', 'sender_address', 'reply_to', 'subject', 'html', 'text', 'headers', 'attachments',
    'template', 'template_id', 'template_data', 'template_version', 'locale', 'calendar',
    'message_id',
)  # fmt: skip
RAW: Schema = {
    'required': ['raw'],
    'properties': {
        'raw': {'not': NOTHING},
        'one_copy_each': {'enum': [False, None]},
        **_each(NOTHING, *NOT_BESIDE_RAW),
    },
}


def _exact(name: str, schema: Any) -> Any:
    """Return the description of a field, with what its texts and numbers are."""
    if isinstance(schema, list):
        return [_exact(name, part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {field: _exact(field, part) for field, part in value.items()}
        if key == 'properties'
        else _exact(name, value)
        for key, value in schema.items()
    }
    if 'enum' in made or 'pattern' in made or 'contentEncoding' in made or 'const' in made:
        return made
    more = {'string': OF_TEXTS, 'integer': OF_NUMBERS}.get(str(made.get('type')), {})
    return made | more.get(name, {})
