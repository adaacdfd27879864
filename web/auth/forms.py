"""Forms of the desk: read in full, and only from pages that this browser was given."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl

from starlette.requests import Request

from web.api.problem import Refusal, RefusalError
from web.auth.people import Visitor

MOST_FIELDS = 2000
LONGEST_FIELD = 2000

FOREIGN_FORM = Refusal(
    HTTPStatus.FORBIDDEN, 'foreign-form', 'the form is not of a page that this browser was given',
    'go back, reload the page, and send it again',
)  # fmt: skip
UNREADABLE_FORM = Refusal(
    HTTPStatus.BAD_REQUEST, 'unreadable', 'the form cannot be read',
    'go back, reload the page, and send it again',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FilledForm:
    """What a form said; a field that was sent several times has several values."""

    fields: Mapping[str, Sequence[str]]

    def one(self, name: str, default: str = '') -> str:
        """Return the first value of a field, without blanks around it."""
        return next(iter(self.fields.get(name, ())), default).strip()

    def all(self, name: str) -> Sequence[str]:
        """Return every value of a field."""
        return self.fields.get(name, ())


def form_of(pairs: Sequence[tuple[str, str]]) -> FilledForm:
    """Return what these fields say; no value has a NUL, which PostgreSQL does not take."""
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value.replace('\x00', '')[:LONGEST_FIELD])
    return FilledForm(fields)


async def read_form(request: Request, visitor: Visitor) -> FilledForm:
    """Read a form.

    Raises:
        RefusalError: 400, or 403 for one that another site had the browser send (CSRF).
    """
    site = request.headers.get('sec-fetch-site', 'same-origin')
    if site not in {'same-origin', 'none'}:
        raise RefusalError(FOREIGN_FORM)
    try:
        body = (await request.body()).decode()
        pairs = parse_qsl(body, keep_blank_values=True, errors='strict', max_num_fields=MOST_FIELDS)
    except ValueError as error:  # UnicodeDecodeError is one
        raise RefusalError(UNREADABLE_FORM) from error
    form = form_of(pairs)
    if not hmac.compare_digest(form.one('form_key').encode(), visitor.form_key.encode()):
        raise RefusalError(FOREIGN_FORM)
    return form
