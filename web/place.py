"""Where people reach the desk: below which path, and how.

An application that mounts the desk says the path itself (ASGI's root_path). Before a proxy it is
WEB_PUBLIC_URL, or what a trusted proxy tells: the proxy may take the path off or leave it on.
"""

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

PREFIX = re.compile(r'(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+')
LONGEST_PREFIX = 200


@dataclass(frozen=True, slots=True)
class PublicPlace:
    """What WEB_PUBLIC_URL says; '' is not known.

    Attributes:
        origin: Such as https://ops.example.com.
        host: The name in it, without its port.
        prefix: The path, such as /mail-desk.
    """

    origin: str = ''
    host: str = ''
    prefix: str = ''

    @classmethod
    def of(cls, url: str | None) -> Self:
        """Read an address that configuration.worker has checked."""
        if not url:
            return cls()
        parts = urlsplit(url)
        return cls(f'{parts.scheme}://{parts.netloc}', parts.hostname or '', parts.path.rstrip('/'))

    @property
    def is_over_tls(self) -> bool:
        """Whether people reach it over TLS."""
        return self.origin.startswith('https://')


NOWHERE = PublicPlace()


def told_prefix(text: str) -> str:
    """Return the path that X-Forwarded-Prefix tells; '' for what is none."""
    prefix = text.strip().rstrip('/')
    return prefix if len(prefix) <= LONGEST_PREFIX and PREFIX.fullmatch(prefix) else ''


def set_prefix(scope: MutableMapping[str, Any], prefix: str) -> None:
    """Have a request be one below this path, whether the proxy has left it on or not."""
    root, path = root_of(scope), path_of(scope)
    if path == prefix or path.startswith(f'{prefix}/'):
        path = path[len(prefix) :]
    scope['root_path'] = root + prefix
    scope['path'] = root + prefix + path


def root_of(scope: MutableMapping[str, Any]) -> str:
    """Return what stands before each path of ours: '', or such as /mail-desk."""
    root: str = scope.get('root_path', '')
    return root.rstrip('/')


def path_of(scope: MutableMapping[str, Any]) -> str:
    """Return a request's path as if the desk were at the top."""
    root: str = root_of(scope)
    path: str = scope['path']
    below = path == root or path.startswith(f'{root}/')
    return path[len(root) :] if root and below else path
