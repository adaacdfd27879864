"""The desk, the API and /metrics as one ASGI application, made of the settings.

`python -m web` serves it. An application of somebody else mounts it (docs/desk.md):

    desk = MountedDesk(load_settings())
    app.mount('/desk', desk.app)   # and `await desk.close()` when the application ends
"""

import asyncio
import secrets
from dataclasses import replace

from pydantic import SecretStr

from actions.call import queue_for
from actions.retry import RetryTerms
from configuration.oidc import check_packages
from mail_outbox.address_fields import Sender
from reporting.servers import ServerAddresses
from settings import Settings
from web.access import Guard
from web.api.parts import Api
from web.api.servers import QUEUEING_CONNECTIONS, ApiServers
from web.application import close_desk, make_application
from web.auth.people import Role
from web.auth.provider import IdentityProvider
from web.auth.proxy import TrustedProxy
from web.hooks.routes import Hooks, ProviderKeys
from web.hooks.sns import SnsMessages
from web.place import PublicPlace
from web.questions import OVERVIEW, READINESS
from web.watch import Watch


class MountedDesk:
    """The application, and what it holds open."""

    def __init__(self, settings: Settings, *, loopback_only: bool | None = None) -> None:
        """Connect to nothing yet.

        Args:
            loopback_only: Whether only this machine reaches it, see web.access.Guard. None: an
                application mounts it, which may be open to everybody: without WEB_TOKEN nobody
                sees anything before the log-in.
        """
        addresses = ServerAddresses(
            settings.postgres_dsn,
            settings.arq_redis_url.get_secret_value(),
            mongodb_url=settings.mongodb_dsn,
            mongodb_database=settings.mongodb_database,
            naive_timezone=settings.db_naive_timezone,
        )
        self._watches = [Watch(addresses, asked) for asked in (OVERVIEW, READINESS)]
        self._api = make_api(settings, addresses)
        place, token = PublicPlace.of(settings.web_public_url), _shown(settings.web_token)
        if loopback_only is None:
            place = replace(place, prefix='')  # the path is the one it is mounted at
        if loopback_only is None and token is None:
            token = secrets.token_urlsafe()  # nobody has it
        self.app: Guard = make_application(
            *self._watches, token=token, loopback_only=bool(loopback_only), api=self._api,
            proxy=trusted_proxy(settings), hooks=make_hooks(settings, self._api),
            place=place, provider=open_provider(settings),
        )  # fmt: skip

    async def end_streams(self) -> None:
        """End what pages wait for, and let changes that are under way end."""
        await close_desk(self.app)

    async def close(self) -> None:
        """Close what was opened."""
        await self.end_streams()
        closing = [watch.close() for watch in self._watches]
        await asyncio.gather(*closing, self._api.close(), return_exceptions=True)


def _shown(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def make_api(settings: Settings, addresses: ServerAddresses) -> Api:
    """Return what the API's handlers work with."""
    queue = queue_for('send_email', routed=settings.queue_routing)
    return Api(
        ApiServers(addresses, connections=QUEUEING_CONNECTIONS),
        ApiServers(addresses),
        RetryTerms(settings.email_expiry_hours, queue),
        Sender(settings.smtp_from_email, settings.smtp_from_name),
        max_message_bytes=settings.email_max_bytes,
    )


def make_hooks(settings: Settings, api: Api) -> Hooks:
    """Return what the calls of providers work with."""
    keys = ProviderKeys(
        postmark=_shown(settings.postmark_webhook_secret),
        mailgun=_shown(settings.mailgun_webhook_key),
        sendgrid=settings.sendgrid_webhook_key,
        brevo=_shown(settings.brevo_webhook_secret),
        sns=SnsMessages(settings.ses_topic_arns) if settings.ses_topic_arns else None,
    )
    return Hooks(
        api.servers, keys, settings.return_paths, settings.feedback_rules,
        settings.unsubscribe_links,
    )  # fmt: skip


def open_provider(settings: Settings) -> IdentityProvider | None:
    """Return who asks people who they are; None: nobody, they have tokens.

    Raises:
        SystemExit: a package is missing.
    """
    if settings.oidc_issuer is None:
        return None
    check_packages()
    from web.auth.oidc import OidcProvider, OidcTerms  # noqa: PLC0415 - few have its packages

    return OidcProvider(
        OidcTerms(
            settings.oidc_issuer, settings.oidc_client_id or '',
            _shown(settings.oidc_client_secret) or '',
            {word: Role(role) for word, role in settings.oidc_roles.items()},
            settings.oidc_roles_claim, (settings.oidc_name_claim, 'email', 'sub'),
            settings.oidc_scope,
        )
    )  # fmt: skip


def trusted_proxy(settings: Settings) -> TrustedProxy:
    """Return whose word about people counts."""
    return TrustedProxy(
        settings.web_trusted_proxies, settings.web_user_header, Role(settings.web_user_role)
    )
