"""Messages that came back, as servers write them; DSNs of real servers are in tests/debian."""

from mail.bounce.return_path import ReturnPaths

PATHS = ReturnPaths('bounces@example.com', ('a secret of sixteen',))


def dsn(
    *,
    status: str = '5.1.1',
    action: str = 'failed',
    recipient: str = 'anna@example.net',
    diagnostic: str = 'smtp; 550 5.1.1 <anna@example.net>: user unknown',
    to: str = 'bounces@example.com',
    message_id: str = '<m1@example.com>',
    own_id: str = '<report-1@mx.example.net>',
    more: str = '',
) -> bytes:
    """Return a DSN with one recipient, and with what is given as `more` groups."""
    return f"""\
From: MAILER-DAEMON@mx.example.net
To: {to}
Subject: Undelivered Mail Returned to Sender
Date: Mon, 30 Nov 2026 12:00:05 +0000
Message-ID: {own_id}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="b1"

--b1
Content-Type: text/plain

It could not be delivered.

--b1
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
Arrival-Date: Mon, 30 Nov 2026 12:00:01 +0000

Final-Recipient: rfc822; {recipient}
Action: {action}
Status: {status}
Diagnostic-Code: {diagnostic}
{more}
--b1
Content-Type: text/rfc822-headers

From: shop@example.com
To: anna@example.net
Date: Mon, 30 Nov 2026 12:00:00 +0000
Message-ID: {message_id}

--b1--
""".replace('\n', '\r\n').encode()


def complaint(kind: str = 'abuse', *, original_from: str = '', rcpt: str = '') -> bytes:
    """Return a complaint in the Abuse Reporting Format."""
    fields = f'Original-Mail-From: <{original_from}>\n' if original_from else ''
    fields += f'Original-Rcpt-To: <{rcpt}>\n' if rcpt else ''
    return f"""\
From: abuse@example.net
To: bounces@example.com
Date: Mon, 30 Nov 2026 13:00:00 +0000
Message-ID: <arf-1@example.net>
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="b2"

--b2
Content-Type: text/plain

This is an email abuse report.

--b2
Content-Type: message/feedback-report

Feedback-Type: {kind}
User-Agent: SomeGenerator/1.0
Version: 1
{fields}
--b2
Content-Type: message/rfc822

From: shop@example.com
Date: Mon, 30 Nov 2026 12:00:00 +0000
Message-ID: <m1@example.com>
Subject: Hello

Text
--b2--
""".replace('\n', '\r\n').encode()
