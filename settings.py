"""Every setting of the program: environment first, then `.env`, secrets also from files.

The variables are declared by subject, in configuration/; each is described there. A secret NAME may
instead be given as NAME_FILE (a path), or as a file called NAME in the directory that systemd's
LoadCredential passes in CREDENTIALS_DIRECTORY. Names that existing installations use are accepted
as they are.
"""

import os
import socket

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from configuration.alerts import AlertVariables
from configuration.bounce import BounceVariables
from configuration.dkim_keys import DkimVariables
from configuration.hooks import HookVariables
from configuration.ingress import IngressVariables
from configuration.observing import ObservingVariables
from configuration.oidc import OidcVariables
from configuration.policy import EmailVariables
from configuration.relays import slowest_attempt_s
from configuration.safety import SafetyVariables
from configuration.servers import (
    MongoVariables,
    PostgresVariables,
    RedisVariables,
    refusal_of_mongodb_url,
)
from configuration.smtp import SmtpVariables
from configuration.sources import ENV_FILE, EnvFile, SecretFiles, variable_names
from configuration.unsubscribe import UnsubscribeVariables
from configuration.webhooks import WebhookVariables
from configuration.worker import ProcessVariables, WebVariables, WorkerVariables
from db.feedback_suppression import ONLY_STATES, FeedbackRules


# pydantic reads the variables of the last class first, and docs/configuration.md prints them so.
class Settings(
    ObservingVariables,
    ProcessVariables,
    WebhookVariables,
    AlertVariables,
    HookVariables,
    UnsubscribeVariables,
    BounceVariables,
    IngressVariables,
    OidcVariables,
    WebVariables,
    WorkerVariables,
    SafetyVariables,
    EmailVariables,
    DkimVariables,
    SmtpVariables,
    MongoVariables,
    PostgresVariables,
    RedisVariables,
    BaseSettings,
):
    """All settings, checked. Units are in the names, the variable's or else the field's."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        extra='ignore',
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    @property
    def job_timeout_s(self) -> float:
        """The longest an orderly attempt can take on all relays, so that arq never cuts one off."""
        return slowest_attempt_s(self) + self.mongodb_timeout_s + 2 * self.db_command_timeout_s

    @property
    def feedback_rules(self) -> FeedbackRules:
        """What reports and refusals do to addresses.

        Nothing while OVERRIDE_RECIPIENTS is on: whom they are about is not whom an e-mail is for.
        """
        if self.override_recipients:
            return ONLY_STATES
        return FeedbackRules(self.bounce_suppress_days, self.complaint_suppress_days)


class _Sources(Settings):
    """Settings with the file sources; apart, so that tests build Settings from values alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - EnvFile replaces it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - SecretFiles replaces it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            SecretFiles(settings_cls),
            EnvFile(settings_cls, ENV_FILE),
        )


def read_settings(*, with_drivers: bool = True) -> Settings | list[tuple[str, str]]:
    """Read and check all settings. Returns them; or each variable that is wrong, and why.

    The reason never has the value, which may be a secret.

    Args:
        with_drivers: Also by drivers that take long to import; without, what uses them refuses.
    Raises:
        SystemExit: a file that settings are in cannot be read; one line that names it.
    """
    try:
        settings = _Sources()
    except ValidationError as error:
        return [
            (
                _variable(str(each['loc'][0])) if each['loc'] else 'the combination of values',
                each['msg'].removeprefix('Value error, '),
            )
            for each in error.errors()
        ]
    url = settings.mongodb_url
    if with_drivers and url is not None and (refusal := refusal_of_mongodb_url(url)):
        return [('MONGODB_URL', refusal)]
    return settings


def load_settings(*, with_drivers: bool = True) -> Settings:
    """Read and check all settings, see read_settings.

    Raises:
        SystemExit: one line that names the variable and says what is wrong; never the value, which
            may be a secret.
    """
    read = read_settings(with_drivers=with_drivers)
    if isinstance(read, Settings):
        return read
    name, reason = read[0]
    more = f' (and {len(read) - 1} more: see `python -m ops config check`)' if read[1:] else ''
    raise SystemExit(
        f'settings: {name}: {reason}{more}. Every variable is described in docs/configuration.md'
    )


def _variable(location: str) -> str:
    """Return the variable a faulty value came from, which may be an older name of the setting."""
    for field_name, field in Settings.model_fields.items():
        names = variable_names(field_name, field)
        if location == field_name or location in names:
            return next((name for name in names if os.environ.get(name)), names[0])
    return location.upper()


def worker_identity(settings: Settings, queue_name: str) -> str:
    """Return the name this process signs its claims with, unique per process."""
    role = settings.worker_name or ('worker' if queue_name == 'arq:queue' else queue_name)
    return f'{role}@{socket.gethostname()}:{os.getpid()}'
