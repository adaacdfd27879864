"""The worker's own process, the web page, the log, and what health checks read."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from configuration.variables import Variables


def _read_networks(value: Any) -> Any:
    """Read addresses and networks with commas between them."""
    if not isinstance(value, str):
        return value
    return tuple(
        ip_network(part.strip(), strict=False) for part in value.split(',') if part.strip()
    )


NetworkList = Annotated[
    tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_read_networks)
]


class WorkerVariables(Variables):
    """The worker."""

    worker_name: str | None = Field(
        default=None, max_length=100, description='Default: worker@host:pid.'
    )
    worker_max_jobs: int = Field(default=400, ge=1, le=1000, description='Jobs at once.')
    worker_sweep_size: int = Field(
        default=300,
        ge=1,
        le=1000,
        description='The most e-mails under way, and a tenth more if urgent; fewer where 0.1 s '
        'needs fewer.',
    )
    worker_max_bytes_in_flight: int | None = Field(
        default=None,
        ge=1024 * 1024,
        description='Content of large e-mails in memory at once; small mail goes on beside them. '
        "By default a sixteenth of the process's memory limit, 16 to 256 MiB.",
    )
    worker_poll_delay_s: float = Field(
        default=0.1, ge=0.01, le=10, description='How often Redis is asked for jobs.'
    )
    worker_lease_s: float = Field(
        default=25, ge=2, description='A claim not renewed for this long is rescued.'
    )
    worker_beat_s: float = Field(
        default=8, ge=0.1, description='Claims are renewed, lost ones rescued, this often.'
    )
    worker_drain_s: int = Field(
        default=20, ge=0, le=3600, description='SIGTERM: running mail may finish this long.'
    )
    worker_recycle_jobs: int = Field(
        default=0,
        ge=0,
        description='Drain and exit after so many jobs or e-mails, or up to a tenth fewer; '
        '0: never.',
    )
    worker_recycle_rss_mib: int = Field(
        default=0,
        ge=0,
        description='Drain and exit when the process holds so much memory, or up to a tenth less.',
    )
    worker_keep_result_s: int = Field(
        default=3600, ge=0, description="How long a job's result can be read."
    )
    queue_routing: bool = Field(
        default=False,
        description='E-mails go through the queue high_priority, maintenance through low_priority.',
    )

    @model_validator(mode='after')
    def _check_times(self) -> Self:
        # Three beats fit in a lease, so that one late renewal is not a lost claim.
        if self.worker_beat_s * 2.5 > self.worker_lease_s:
            raise ValueError('WORKER_LEASE_S must be at least 2.5 times WORKER_BEAT_S')
        return self


class WebVariables(Variables):
    """The web page."""

    web_host: str = Field(
        default='127.0.0.1',
        min_length=1,
        description='Where `python -m web` listens; what other machines can reach needs WEB_TOKEN.',
    )
    web_port: int = Field(
        default=8625, ge=0, le=65535, description='Its port; 0: any free one, which the log tells.'
    )
    web_token: SecretStr | None = Field(
        default=None,
        min_length=16,
        description='Bearer token, or password of HTTP Basic, for /metrics and /api/status.',
    )
    web_public_url: str | None = Field(
        default=None,
        pattern=r'^https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?$',
        max_length=300,
        description='Where people reach the desk through a proxy, such as '
        'https://ops.example.com/mail-desk; its path stands before every link.',
    )
    web_trusted_proxies: NetworkList = Field(
        default=(),
        description='Addresses of reverse proxies (10.0.0.5, 10.0.0.0/24; several with commas) '
        'whose X-Forwarded-For, -Proto, -Prefix and WEB_USER_HEADER count.',
    )
    web_user_header: str | None = Field(
        default=None,
        pattern=r'^[A-Za-z0-9-]{1,100}$',
        description='Header in which a trusted proxy names the person, such as X-Forwarded-User; '
        'without it people log in at the desk with a token.',
    )
    web_user_role: Literal['look', 'operate', 'administer'] = Field(
        default='look', description='What everybody may do whom WEB_USER_HEADER names.'
    )


class ProcessVariables(Variables):
    """What whoever starts each process gets of it: its log, and how it is."""

    log_level: Literal['DEBUG', 'INFO', 'WARNING', 'ERROR'] = Field(
        default='INFO', description='Least severe shown.'
    )
    log_format: Literal['auto', 'json', 'console'] = Field(
        default='auto', description='auto: console on a terminal, JSON otherwise.'
    )
    health_file: Path | None = Field(
        default=None,
        description='A file, best in memory, in which worker, web server and ingress say how they '
        'are, for `email-worker-health`. The image sets it.',
    )
