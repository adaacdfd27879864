"""Values that requests carry: what is taken, and the words for what is not."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BeforeValidator, Field, GetPydanticSchema, StringConstraints
from pydantic_core import core_schema
from starlette.convertors import Convertor, register_url_convertor

WHOLE_NUMBER = re.compile(r'[0-9]{1,19}')
TIME = re.compile(r'\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)', re.ASCII)
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
# PostgreSQL takes every character but this one.
WITHOUT_NUL = r'^[^\x00]*$'


def whole_number(value: Any) -> Any:
    """Read digits of a path or a query, where '1_0', ' 10' and '10.0' are none."""
    if isinstance(value, str) and not WHOLE_NUMBER.fullmatch(value):
        raise ValueError('must be a whole number in digits')
    return value


def whole(value: Any) -> Any:
    """Read a number of a body: to JSON Schema 10.0 is a whole number, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def moment_of(value: Any) -> Any:
    """Read RFC 3339 with a zone, and nothing that is only like it."""
    if isinstance(value, datetime) or value is None:
        return value
    # isoformat knows no Z in lower case, and RFC 3339 no time without seconds: both are clear.
    if not isinstance(value, str) or not TIME.fullmatch(value):
        raise ValueError('must be a time with its zone, such as 2026-08-01T14:30:00Z')
    try:
        return min(max(datetime.fromisoformat(value.upper()), EARLIEST), LATEST)
    except (ValueError, OverflowError):
        raise ValueError('is no day or no time of the calendar') from None


def text_up_to(longest: int) -> Any:
    """Return the constraints of a text that PostgreSQL can take."""
    return StringConstraints(min_length=1, max_length=longest, pattern=WITHOUT_NUL)


class IdConvertor(Convertor[int]):
    """An id in a path: {email_id:id}. Other words are other paths, as /api/emails/retry is."""

    regex = '[0-9]{1,19}'

    def convert(self, value: str) -> int:
        """Read it."""
        return int(value)

    def to_string(self, value: int) -> str:
        """Write it."""
        return str(value)


register_url_convertor('id', IdConvertor())


def one_of(words: Iterable[str]) -> Any:
    """Return the constraint of a text that is one of these words, for Annotated[str, ...].

    Literal would have them written out once more.
    """
    schema = core_schema.literal_schema([str(word) for word in words])
    return GetPydanticSchema(lambda _source, _handler: schema)


Time = Annotated[datetime, BeforeValidator(moment_of), Field(strict=False)]
ShortText = Annotated[str, text_up_to(200)]
Address = Annotated[str, text_up_to(320)]
Reason = Annotated[str, text_up_to(500)]
Count = Annotated[int, Field(ge=0), BeforeValidator(whole)]
EmailId = Annotated[int, Path(ge=1, description="The e-mail's id.")]
Cursor = Annotated[
    str,
    Field(
        pattern=r'^[0-9]{1,19}$', description='`next_cursor` of the page before; as it was given.'
    ),
]
LARGEST_PAGE = 200
PageSize = Annotated[
    int, Query(ge=1, le=LARGEST_PAGE, description='E-mails at most.'), BeforeValidator(whole_number)
]
