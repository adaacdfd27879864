"""`doctor --alert`: tell of what is new, to whom the settings name."""

import socket

from actions.alert import alert_of_findings
from configuration.live import make_relays
from delivery.alerts.assemble import AlertRules, make_alerter
from mail.route import Relays
from mail_outbox.address_fields import Sender
from ops.connect import Connections
from reporting.problems import USAGE, Document, Problem, ProblemError


async def alert_of(connections: Connections, document: Document) -> list[Document]:
    """Tell of what is new. Returns what was told."""
    settings = connections.settings
    sender = Sender(settings.smtp_from_email, settings.smtp_from_name)
    relays = Relays(make_relays(settings))
    rules = AlertRules(*settings.alert_values)
    alerter = make_alerter(rules, f'doctor at {socket.gethostname()}', relays, sender)
    if alerter is None:
        what = 'nobody is to be told'
        raise ProblemError(
            Problem(
                what, 'set ALERT_EMAILS, ALERT_WEBHOOK_URL or ALERT_APPRISE_URLS', exit_status=USAGE
            )
        )
    try:
        notices = await alert_of_findings(connections, alerter, document)
    finally:
        relays.close_idle(older_than_s=0)
    return [{'kind': notice.kind.value, 'subject': notice.subject} for notice in notices]
