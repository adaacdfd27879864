"""Everything that is held on one person's address, read out part by part."""

import base64
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from actions.erase import personal_rows
from actions.safety import RequestError
from db.personal import person_of
from db.personal_export import read_personal_emails, read_personal_entries
from reporting.problems import Document
from reporting.servers import Servers
from reporting.wording import as_json

AT_ONCE = 20  # e-mails, each with its attachments


async def export_document(servers: Servers, key: str) -> AsyncIterator[str]:
    """Yield a JSON document of them, an entry at a time: no export is held in memory.

    One that was cut off has no count at its end.

    Raises:
        RequestError: it is no address; ProblemError: PostgreSQL does not answer.
    """
    entries = 0
    yield '{"address": ' + as_json({'a': key}, None)[6:-1] + ', "entries": ['
    async for entry in export_person(servers, key):
        yield (',\n' if entries else '\n') + as_json(entry, None)
        entries += 1
    yield f'\n], "count": {entries}}}\n'


async def export_person(servers: Servers, key: str) -> AsyncIterator[Document]:
    """Yield documents with `kind`: email, audit, feedback, suppression.

    Of other recipients those are told that the person has seen; bytes are in base64.

    Args:
        key: From db.suppressions.suppression_key; an address, no domain.
    Raises:
        RequestError: it is no address; ProblemError: PostgreSQL does not answer.
    """
    if key.startswith('@'):
        raise RequestError(f'{key} is a domain', 'give one address')
    person = person_of(key)
    async for rows in personal_rows(servers, key):
        ids = sorted([*rows.alone, *rows.shared, *rows.under_way])
        for start in range(0, len(ids), AT_ONCE):
            reading = partial(
                read_personal_emails, email_ids=ids[start : start + AT_ONCE], person=person
            )
            for email in await servers.ask_postgres(reading):
                yield {'kind': 'email', **_plain(email)}
    for entry in await servers.ask_postgres(partial(read_personal_entries, person=person)):
        yield _plain(entry)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value
