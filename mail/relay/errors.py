"""Why an e-mail did not get to a relay, or came back from it without an answer of its own."""

from mail.outcome import Reply
from mail.relay.learned_rate import is_throttling


class RelayError(Exception):
    """No connection to the relay could be made, or none that is of use; that costs no attempt."""

    counts = False

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = reply

    @property
    def is_throttling(self) -> bool:
        """Whether the relay said that it takes no more now."""
        return self.reply is not None and is_throttling(self.reply)


class RelayRefusedError(RelayError):
    """The relay wants nothing from us now: 421, or it does not accept our credentials."""


class RelayDiedError(RelayError):
    """A new connection ended at this e-mail, whose sender may be what the relay dies of."""

    counts = True


class RelayBehindError(RelayRefusedError):
    """The relay wants fewer e-mails than there are; another relay is to be asked, or it later."""


class RelayGoneError(Exception):
    """The connection failed, or nothing came in time, or what came is no SMTP."""


class UnfitError(Exception):
    """The relay cannot take such a message, whenever it is asked; it was not.

    Attributes:
        reply: What it would have said.
    """

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__(reply.text)


class TooLargeError(UnfitError):
    """The message is over the relay's SIZE (RFC 1870)."""

    def __init__(self, message_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            Reply(552, f"5.3.4 message of {message_bytes} bytes is over the relay's {limit_bytes}")
        )


class NoUtf8Error(UnfitError):
    """An address is beyond ASCII, and the relay does not offer SMTPUTF8 (RFC 6531, 3.5)."""

    def __init__(self, address: str | None) -> None:
        what = 'a message with such a header' if address is None else address
        super().__init__(
            Reply(553, f'5.6.7 it does not offer SMTPUTF8, which {what} needs (not only ASCII)')
        )


class NoEightBitError(UnfitError):
    """A message as given is in 8 bits, and the relay does not offer 8BITMIME (RFC 6152, 3)."""

    def __init__(self) -> None:
        super().__init__(
            Reply(554, '5.6.3 it does not offer 8BITMIME, which this message as given needs')
        )
