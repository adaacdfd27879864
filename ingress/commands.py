"""What is replied to MAIL and RCPT that are well-formed: aiosmtpd's hooks."""

# ruff: noqa: N802, D102 - aiosmtpd finds these methods by the SMTP commands in their names

from typing import TYPE_CHECKING, cast

import structlog
from aiosmtpd.smtp import SMTP, Envelope, Session

from mail_outbox.envelope import MAX_RECIPIENTS, InvalidEmailError, envelope_address

if TYPE_CHECKING:
    from ingress.session import IngressSession

log = structlog.get_logger()

NULL_SENDER = '<>'
LOG_IN_FIRST = '530 5.7.0 log in first, with a token as the password'
UNKNOWN_RETURN_PATH = '550 5.1.1 this return path was not made here'
REPORTS_ONLY = '550 5.1.1 nobody here: only reports to return paths are taken'
REPORTS_APART = '452 4.5.3 reports come by themselves: send it again to the others'
TOO_MANY_RECIPIENTS = (
    f'452 4.5.3 at most {MAX_RECIPIENTS} recipients in one message: send it again to the others'
)


class CommandHooks:
    """aiosmtpd's hooks: what is replied to a command that is well-formed."""

    def __dir__(self) -> list[str]:
        return HOOK_NAMES

    async def handle_MAIL(
        self, _server: SMTP, _session: Session, envelope: Envelope, text: str, options: list[str]
    ) -> str:
        try:
            sender = text if text == NULL_SENDER else envelope_address(text, 'MAIL FROM')
        except InvalidEmailError as error:
            return f'553 5.1.7 {error}'
        envelope.mail_from = sender
        envelope.mail_options.extend(options)
        return '250 2.1.0 OK'

    async def handle_RCPT(
        self, server: SMTP, _session: Session, envelope: Envelope, text: str, options: list[str]
    ) -> str:
        if len(envelope.rcpt_tos) >= MAX_RECIPIENTS:
            return TOO_MANY_RECIPIENTS
        try:
            recipient = envelope_address(text, 'RCPT TO')
        except InvalidEmailError as error:
            return f'553 5.1.3 {error}'
        refusal = self._refuse_mixed(cast('IngressSession', server), recipient, envelope)
        if refusal is not None:
            return refusal
        envelope.rcpt_tos.append(recipient)
        envelope.rcpt_options.extend(options)
        return '250 2.1.5 OK'

    def _refuse_mixed(
        self, server: 'IngressSession', recipient: str, envelope: Envelope
    ) -> str | None:
        """Refuse a return path that nobody of us signed, mail of strangers, and both at once."""
        paths = server.return_paths
        is_report = paths is not None and paths.is_ours(recipient)
        if is_report and paths is not None and paths.signs and not paths.is_plain(recipient):
            if paths.email_id(recipient) is None:
                return UNKNOWN_RETURN_PATH
        elif not is_report and server.takes_reports_only:
            return REPORTS_ONLY
        elif not is_report and server.lacks_token:
            return LOG_IN_FIRST
        if envelope.rcpt_tos and server.is_report != is_report:
            return REPORTS_APART
        return None

    async def handle_exception(self, error: Exception) -> str:
        log.error('ingress.session_crashed', exc_info=error)
        return '451 4.3.0 a fault of this server: try again later'


# aiosmtpd looks through all names of its objects for those, for each connection: 0.3 ms.
HOOK_NAMES = [name for name in vars(CommandHooks) if name.startswith('handle_')]
HOOKS = CommandHooks()
