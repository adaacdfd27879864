"""One connection by LMTP (RFC 2033): servers on this machine deliver reports to return paths.

Each recipient has an answer of its own behind the final dot, so a server delivers again only to
whom it has to. Other mail is not taken: this is no way to submit any.
"""

# ruff: noqa: N802, D102 - aiosmtpd finds these methods by the commands in their names

import re
from collections.abc import Sequence

from ingress.session import IngressSession

NO_LHLO = '500 5.5.1 this is LMTP: say LHLO'
# RFC 2034, 4: every reply but the greeting, and that to LHLO and DATA, has an enhanced code.
WITHOUT_CODE = re.compile(r'([245])\d\d (?![245]\.\d)')


class LmtpSession(IngressSession):
    """A server that has reports for us."""

    protocol = 'LMTP'
    takes_reports_only = True

    @property
    def lacks_token(self) -> bool:
        return False

    def __dir__(self) -> list[str]:
        return COMMAND_NAMES

    async def push(self, status: str | bytes) -> None:
        text = status if isinstance(status, str) else status.decode(errors='replace')
        if not text.startswith('220 '):
            text = WITHOUT_CODE.sub(lambda found: f'{found[0]}{found[1]}.0.0 ', text, count=1)
        await super().push(text)

    async def smtp_LHLO(self, hostname: str) -> None:
        await super().smtp_EHLO(hostname)

    async def smtp_EHLO(self, _hostname: str) -> None:
        await self.push(NO_LHLO)

    async def smtp_HELO(self, _hostname: str) -> None:
        await self.push(NO_LHLO)

    async def check_helo_needed(self, _helo: str = 'LHLO') -> bool:
        return await super().check_helo_needed('LHLO')

    def _for_each(self, reply: str) -> Sequence[str]:
        return [reply] * len(self._envelope.rcpt_tos)

    async def _hand_in(self, content: bytes) -> Sequence[str]:
        """Store what it reports to each return path. Returns the replies, in their order."""
        recipients, replies = self._envelope.rcpt_tos, {}
        for recipient in recipients:
            if recipient not in replies:
                replies[recipient] = await self._door.take_report([recipient], content)
        return [replies[recipient] for recipient in recipients]


NOT_LMTP = frozenset({'smtp_AUTH', 'smtp_STARTTLS', 'auth_PLAIN', 'auth_LOGIN'})
COMMAND_NAMES = [
    name
    for name in dir(LmtpSession)
    if name.startswith(('smtp_', 'auth_')) and name not in NOT_LMTP
]
