"""Templates given by id or by name, remembered for seconds."""

import time
from collections.abc import Sequence

from db.content import find_templates, template_names
from engine.batches import Batcher
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.field_checks import checked_id
from mail_outbox.template_names import template_id_of, unknown_template
from reporting.servers import Servers
from web.api.resend.refusals import UNKNOWN, refused

FRESH_S = 2.0
MOST_REMEMBERED = 1000


class KnownTemplates:
    """The templates that were there a moment ago."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._found: dict[str, tuple[float, str]] = {}  # when, and the id
        self._find = Batcher(self._ask)

    async def id_of(self, given: int | str) -> int | str:
        """Return the id of a template.

        Raises:
            RefusalError: there is none; ProblemError: PostgreSQL does not answer.
        """
        word, now = str(given), time.monotonic()
        at, found = self._found.get(word, (now - FRESH_S, ''))
        if now - at < FRESH_S:
            return template_id_of(found)
        asked = None
        if _is_identifier(given):
            asked = await self._servers.in_time(self._find(word))
        if asked is None:
            names = await self._servers.ask_postgres(template_names)
            said = f'{unknown_template(word, names)} (email_templates)'
            raise refused(UNKNOWN, said, 'give its id or its name')
        if len(self._found) >= MOST_REMEMBERED:
            self._found.clear()
        self._found[word] = now, asked
        return template_id_of(asked)

    async def _ask(self, words: Sequence[str]) -> list[str | None]:
        return await self._servers.ask_postgres(lambda pool: find_templates(pool, words))


def _is_identifier(given: int | str) -> bool:
    """Whether it can be asked for: what PostgreSQL refuses, it refuses for all who ask with it."""
    try:
        checked_id('template', given)
    except InvalidEmailError:
        return False
    return True
