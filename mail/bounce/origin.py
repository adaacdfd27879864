"""What a report as a whole tells of the e-mail that it is about."""

from dataclasses import dataclass
from datetime import datetime

from mail.bounce.return_path import ReturnPaths


@dataclass(frozen=True, slots=True)
class ReportOrigin:
    """Which e-mail came back.

    Attributes:
        email_id: Of a return path that we signed.
        own_id: The report's own Message-ID.
    """

    email_id: int | None
    message_id: str | None
    sent_at: datetime | None
    reported_at: datetime | None
    own_id: str
    return_paths: ReturnPaths | None = None
