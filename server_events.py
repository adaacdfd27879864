"""The names of log events of servers, webhooks, switches, what comes back; see log_events.py."""

WEBHOOK_FIELDS = 'webhook_id delivery_id event_type attempt http_status duration_ms'

# As log_events.LogEvent: level, when, fields, remedy.
SERVER_EVENTS: dict[str, tuple[str, ...]] = {
    'mailbox.read': (
        'info',
        'Messages in the mailbox of BOUNCE_IMAP_URL were read: reports, others, and new reports.',
        'taken left new',
        '',
    ),
    'safety_switches.on': (
        'warning',
        'The worker starts with DRY_RUN or the like: mail does not go where it would.',
        'switches',
        'As it should be in staging; else take the variables away and restart the worker.',
    ),
    'feedback.applied': (
        'info',
        'A report of what came back was looked at: `effect` says what came of it.',
        'kind effect suppressed',
    ),
    'feedback.put_off': (
        'warning',
        'A report cannot be applied now, as its row is locked or unreadable; the others are.',
        'report_id error',
        'Several of one id: see `error`.',
    ),
    'recipients.not_suppressed': (
        'warning',
        'Addresses that a relay refused as unknown could not be suppressed; the next refusal does.',
        'addresses error',
    ),
    'hook.taken': (
        'info',
        'A provider called, and was believed: `new` of its reports are stored.',
        'provider reports new',
    ),
    'hook.subscribed': ('info', 'A subscription of an SNS topic was confirmed.', 'topic'),
    'hook.refused': (
        'warning',
        'A call to `/hooks/` was not believed, or could not be read.',
        'provider reason',
        "Compare the provider's key with the setting; the clock of this machine.",
    ),
    'hook.not_stored': (
        'warning',
        'PostgreSQL did not take the reports of a provider, which calls again.',
        'provider error',
        'See whether PostgreSQL can be reached; `python -m ops status`.',
    ),
    'unsubscribe.taken': (
        'info',
        'A recipient unsubscribed from a type of e-mail by a link, or (`action`) subscribed again.',
        'email_type action',
    ),
    'unsubscribe.unknown_link': (
        'info',
        'Somebody asked with an unsubscribe link that nobody here signed.',
        '',
        'When there are many: UNSUBSCRIBE_SECRET must still have every secret that signed links.',
    ),
    'unsubscribe.not_now': (
        'warning',
        'PostgreSQL did not take an unsubscription: whoever clicked is asked to try again.',
        'error',
        'See whether PostgreSQL can be reached; `python -m ops status`.',
    ),
    'ingress.started': ('info', 'The SMTP ingress listens.', 'place token_wanted'),
    'ingress.stopped': ('info', 'The SMTP ingress has ended in order.'),
    'ingress.accepted': (
        'info',
        'A message is in the outbox; its client was told so.',
        'size_bytes',
    ),
    'ingress.report_taken': (
        'info',
        'A message came back, to a return path: `new` reports of it are stored.',
        'new why_none',
    ),
    'ingress.refused': (
        'info',
        'A message can never be sent as it is; its client was told why.',
        'reason',
    ),
    'ingress.login_refused': (
        'info',
        'A client gave a password that is no token in use, or has not the scope `send`.',
        'address',
        'See who is at that address; `python -m ops token ls`.',
    ),
    'ingress.not_stored': (
        'warning',
        'PostgreSQL did not take a message: its client was told to try again.',
        'error',
        'See whether PostgreSQL can be reached; `python -m ops status`.',
    ),
    'ingress.certificate_read': (
        'info',
        'The certificate for STARTTLS was read again: its files have changed, or SIGHUP came.',
        'expires_at',
    ),
    'ingress.certificate_unusable': (
        'error',
        'The certificate cannot be used as its files are now; the one before goes on.',
        'error',
        'Put a certificate and its key there that belong together; `kill -HUP` reads them at once.',
    ),
    'ingress.connections_refused': (
        'warning',
        'More clients than INGRESS_MAX_CONNECTIONS; told once a minute.',
        'open',
        'Raise the limit, or see who connects so often.',
    ),
    'ingress.session_crashed': (
        'error',
        'A fault of this program; the client was told to try again.',
        '',
        'Report it with its traceback.',
    ),
    'web.started': ('info', 'The web page listens.', 'place token_wanted'),
    'web.stopped': ('info', 'The web page has ended in order.'),
    'web.connections_refused': (
        'warning',
        'There are no file descriptors left.',
        'error times remedy',
        'See `remedy`.',
    ),
    'web.logged_in': ('info', 'Somebody has logged in at the desk.', 'actor address'),
    'web.provider_away': (
        'warning',
        'The OIDC provider does not answer as one does; people log in with tokens.',
        'issuer error',
        'Look at the provider, and at OIDC_ISSUER: its discovery document names it to the letter.',
    ),
    'web.login_refused': (
        'warning',
        'What the OIDC provider said of a log-in is not to be believed.',
        'issuer error',
        'Compare OIDC_CLIENT_ID and OIDC_CLIENT_SECRET, and the clocks.',
    ),
    'web.change_failed': (
        'error',
        'A change asked for at the desk met a fault of this program.',
        'action',
        'Report it with its traceback; the audit has what was changed.',
    ),
    'web.many_refused': (
        'warning',
        'An address asked without a token that is in use.',
        'address times',
        'See whose.',
    ),
    'web.body_unread': ('warning', 'A body was too much.', 'size_bytes exit_status'),
    'web.source_unreadable': (
        'error',
        'PostgreSQL or Redis gave something that cannot be read.',
        'source',
        'Report it.',
    ),
    # Events for other programs
    'webhook.delivered': ('info', 'An endpoint took an event.', WEBHOOK_FIELDS),
    'webhook.deferred': (
        'warning',
        'An endpoint did not take an event; it gets it again in `retry_in_s`, or when it is back.',
        f'{WEBHOOK_FIELDS} error retry_in_s',
        '`python -m ops webhook ls` says since when it fails.',
    ),
    'webhook.dead': (
        'error',
        'An endpoint did not take an event for a day; it is not posted again by itself.',
        f'{WEBHOOK_FIELDS} error',
        '`python -m ops webhook replay`, once the endpoint works.',
    ),
    'webhook.claim_lost': (
        'warning',
        'The answer came after the claim had ended: the event is posted again.',
        WEBHOOK_FIELDS,
    ),
    'webhooks.not_read': (
        'warning',
        'PostgreSQL did not answer the loop that delivers events.',
        'error',
    ),
}
