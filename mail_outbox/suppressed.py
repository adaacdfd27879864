"""Who of an e-mail's recipients gets no mail, for an application that wants to know it at once.

What is queued for them is dead with the reason `suppressed` when it is sent.
"""

import json
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from mail_outbox.adapters import driver_of
from mail_outbox.connections import AnySyncConnection, AsyncConnection
from mail_outbox.envelope import parse_recipients
from mail_outbox.statement import Row
from mail_outbox.steps import Ask, Steps, run_steps, run_steps_async
from mail_outbox.suppression import SUPPRESSED, Asked, keys_and_types, reasons_found

ASKED_TOGETHER = 1000


class SuppressedRecipientsError(Exception):
    """An e-mail that was not to be queued for who gets no mail; nothing was inserted.

    Attributes:
        reasons: Each such recipient, with the reason on the list.
    """

    def __init__(self, reasons: Mapping[str, str], place: int | None = None) -> None:
        where = '' if place is None else f'e-mail {place}: '
        # Not the reasons: an application may show this to anybody.
        super().__init__(f'{where}on the list of those who get no mail: {", ".join(reasons)}')
        self.reasons = dict(reasons)


@overload
def suppressed_recipients(
    conn: AsyncConnection, addresses: str | Iterable[str], /, *, email_type: str | None = None
) -> Coroutine[Any, Any, dict[str, str]]: ...
@overload
def suppressed_recipients(
    conn: AnySyncConnection, addresses: str | Iterable[str], /, *, email_type: str | None = None
) -> dict[str, str]: ...


def suppressed_recipients(
    conn: Any, addresses: str | Iterable[str], /, *, email_type: str | None = None
) -> Any:
    """Return who of these gets no mail now, each with the reason.

    Args:
        conn: Any that queue_email takes; with one whose statements are awaited, this is as well.
        addresses: One, several separated by commas, or any number of such; with or without names.
        email_type: Of the e-mail that they are to get: who unsubscribed from it is among them.
    Returns:
        Addresses as they travel, without names.
    Raises:
        InvalidEmailError: one is no address.
        UnsupportedConnectionError: conn is none of these.
    """
    texts = [addresses] if isinstance(addresses, str) else addresses
    found = (to.address for text in texts for to in parse_recipients(text))
    steps = _suppressed([(address, email_type) for address in dict.fromkeys(found)])
    driver = driver_of(conn)
    return run_steps_async(driver, steps) if driver.is_async else run_steps(driver, steps)


def recipients_of(row: Row) -> tuple[str, ...]:
    """Return everybody that an e-mail goes to, of what checked_row returns."""
    texts = (row[name] for name in ('recipient', 'cc', 'bcc') if row[name])
    return tuple(dict.fromkeys(to.address for text in texts for to in parse_recipients(text)))


def suppressed_refused(rows: Sequence[Row], first_place: int | None) -> Steps[None]:
    """Refuse the first e-mail that asks for it and has a recipient who gets no mail.

    Raises:
        SuppressedRecipientsError: says who, and the e-mail's place.
    """
    wanted = [
        (place, [(to, row['email_type']) for to in recipients_of(row)])
        for place, row in enumerate(rows, first_place or 0)
        if row['refuse_suppressed']
    ]
    found = yield from _found([one for _, asked in wanted for one in asked])
    for place, asked in wanted:
        if reasons := _reasons(asked, found):
            raise SuppressedRecipientsError(reasons, None if first_place is None else place)


def _suppressed(asked: Sequence[Asked]) -> Steps[dict[str, str]]:
    return _reasons(asked, (yield from _found(asked)))


def _found(asked: Sequence[Asked]) -> Steps[list[Any]]:
    found: list[Any] = []
    for start in range(0, len(asked), ASKED_TOGETHER):
        keys, types = keys_and_types(asked[start : start + ASKED_TOGETHER])
        values = {'keys': json.dumps(keys), 'types': json.dumps(types)}
        [(answer,)] = yield Ask(SUPPRESSED, [values])
        found += json.loads(answer)
    return found


def _reasons(asked: Sequence[Asked], found: Iterable[Any]) -> dict[str, str]:
    reasons: Iterator[str | None] = reasons_found(asked, map(tuple, found))
    return {to: why for (to, _), why in zip(asked, reasons, strict=True) if why is not None}
