"""Who types a command."""

import getpass
import os
import socket

from db.audit import Actor


def this_user() -> str | None:
    """Return the user's name: of the one who became root by sudo, too."""
    try:
        return os.environ.get('SUDO_USER') or getpass.getuser()
    except (OSError, KeyError):  # a user without a name, in a container
        return None


def this_person() -> Actor:
    """Return who types here, for the audit."""
    return Actor(this_user() or 'unknown', socket.gethostname())
