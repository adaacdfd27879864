"""SMTP in, for applications that speak nothing else."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from configuration.variables import Variables
from engine.urls import is_loopback

LONGEST_SOCKET_PATH = 107  # sun_path of Linux


class IngressVariables(Variables):
    """The SMTP ingress."""

    ingress_host: str = Field(
        default='127.0.0.1',
        min_length=1,
        description='Where `python -m ingress` listens; what other machines can reach needs '
        'INGRESS_TLS_CERTIFICATE, and clients a token.',
    )
    ingress_port: int = Field(
        default=2525,
        ge=0,
        le=65535,
        description='Its port; 0: any free one, which the log tells.',
    )
    ingress_lmtp: str | None = Field(
        default=None,
        description='Where it also takes reports by LMTP: a port of this machine, such as '
        '127.0.0.1:2424, or the path of a Unix socket. Needs BOUNCE_ADDRESS.',
    )
    ingress_require_auth: bool = Field(
        default=False, description='Clients on this machine need a token too.'
    )
    ingress_tls_certificate: Path | None = Field(
        default=None, description='A PEM file with the certificate, and its chain, for STARTTLS.'
    )
    ingress_tls_key: Path | None = Field(
        default=None, description='A PEM file with its key, if the certificate has it not.'
    )
    ingress_message_id_is_key: bool = Field(
        default=False,
        description='A message that comes again, with the same Message-ID for the same recipients, '
        'is not queued again.',
    )
    ingress_max_connections: int = Field(
        default=1000, ge=1, le=10000, description='Clients at once; more are told to come later.'
    )
    ingress_timeout_s: float = Field(
        default=300,
        gt=0,
        le=3600,
        description='How long a client may take for its next command, and for a whole message.',
    )
    ingress_max_bytes_in_flight: int = Field(
        default=64 * 1024 * 1024,
        ge=1024 * 1024,
        description='Messages in memory at once; more are told to come later.',
    )

    @field_validator('ingress_lmtp')
    @classmethod
    def _check_lmtp(cls, value: str | None) -> str | None:
        if value is None or not value.startswith('/'):
            host, _, port = (value or 'localhost:1').rpartition(':')
            is_here = is_loopback(host.removeprefix('[').removesuffix(']'))
            if not is_here or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError('must be a path, or HOST:PORT of this machine: 127.0.0.1:2424')
        elif len(value.encode()) > LONGEST_SOCKET_PATH:
            raise ValueError(f'must have {LONGEST_SOCKET_PATH} bytes at most, as a Unix socket')
        return value

    @model_validator(mode='after')
    def _check_key(self) -> Self:
        if self.ingress_tls_key is not None and self.ingress_tls_certificate is None:
            raise ValueError('INGRESS_TLS_KEY needs INGRESS_TLS_CERTIFICATE')
        return self
