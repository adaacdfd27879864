"""What messages of Celery ask of the outbox: each e-mail is due when the earliest asks for it."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from db.import_requests import ImportRequest
from ops.celery.messages import Meaning, Message

NOW, NEVER = 0.0, math.inf


class Requests:
    """The earliest time that any message asks for, by e-mail, where one asks for later or no more.

    A retry with a countdown leaves two messages about an e-mail: one that is due and one with an
    ETA. Taken one by one, the later would put off what the other asks for now.
    """

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._earliest: dict[int, float] = {}  # s since 1970

    @property
    def has_later(self) -> bool:
        """Whether any message asks for later: then all must be looked at once more."""
        return bool(self._earliest)

    def note_later(self, messages: Sequence[Message]) -> None:
        """Take note of those that ask for later, or no more."""
        for message in messages:
            if message.email_id is not None and (asks := self._asks_for(message)) != NOW:
                known = self._earliest.get(message.email_id, NEVER)
                self._earliest[message.email_id] = min(known, asks)

    def note_now(self, messages: Sequence[Message]) -> None:
        """Take note of those that ask now for what others ask for later."""
        for message in messages:
            if message.email_id in self._earliest and self._asks_for(message) == NOW:
                self._earliest[message.email_id] = NOW

    def of(self, messages: Sequence[Message]) -> list[ImportRequest]:
        """Return what messages ask of the outbox, as the earliest about its e-mail does."""
        requests = []
        for message in messages:
            if message.email_id is None or message.problem is not None:
                continue
            own = self._asks_for(message)
            asks = min(own, self._earliest.get(message.email_id, NEVER))
            # In the past: it shows for how long nobody sent it.
            not_before = message.not_before if own == NOW else None
            if NOW < asks < NEVER:
                not_before = datetime.fromtimestamp(asks, UTC)
            retry = message.meaning is Meaning.RETRY
            requests.append(
                ImportRequest(message.email_id, retry, not_before, lapsed=asks == NEVER)
            )
        return requests

    def _asks_for(self, message: Message) -> float:
        if message.has_lapsed(self._now):
            return NEVER
        later = message.not_before is not None and message.not_before > self._now
        return message.not_before.timestamp() if message.not_before and later else NOW
