"""Complaints in the Abuse Reporting Format (RFC 5965; RFC 6591 for failed authentication)."""

from email.message import Message

from mail.bounce.mime import date_of, field_of, fields_of, inner, parts_of
from mail.bounce.origin import ReportOrigin
from mail.bounce.report import FeedbackKind, Report, ReportReading, key_of, name_of, single_line

# RFC 5965, 7.3. `not-spam` takes a complaint back, `auth-failure` is about DMARC.
NOBODY: tuple[None, ...] = (None,)
COMPLAINTS = frozenset({'abuse', 'fraud', 'virus', 'other', 'miscategorized', 'opt-out'})


def read_complaint(message: Message, origin: ReportOrigin) -> ReportReading | None:
    """Read a complaint; None for what is none."""
    part = next(
        (p for p in parts_of(message) if p.get_content_type() == 'message/feedback-report'), None
    )
    if part is None:
        return None
    told = inner(part) or part
    kind = field_of(told, 'Feedback-Type').strip().lower()[:40]
    if kind not in COMPLAINTS:
        return ReportReading(
            (), f'a report of the type {single_line(kind) or "none"} is no complaint'
        )
    email_id = origin.email_id
    if email_id is None and origin.return_paths is not None and origin.return_paths.signs:
        email_id = origin.return_paths.first_email_id(fields_of(told, 'Original-Mail-From'))
    recipients = [
        address
        for text in list(fields_of(told, 'Original-Rcpt-To'))[:20]
        if (address := name_of(text.strip().strip('<>'))) is not None and '@' in address
    ]
    reported_at = date_of(field_of(told, 'Received-Date') or field_of(told, 'Arrival-Date'))
    agent = single_line(field_of(told, 'User-Agent'), 100)
    # Most providers leave out who complained: with the e-mail known, its only recipient.
    reports = [
        Report(
            kind=FeedbackKind.COMPLAINT,
            source='arf',
            key=key_of('arf', origin.own_id, email_id, origin.message_id, recipient),
            recipient=recipient,
            diagnostic=f'complaint: {kind}{f", told by {agent}" if agent else ""}',
            email_id=email_id,
            message_id=origin.message_id,
            sent_at=origin.sent_at,
            reported_at=origin.reported_at or reported_at,
        )
        for recipient in (dict.fromkeys(recipients) if recipients else NOBODY)
    ]
    return ReportReading(reports)
