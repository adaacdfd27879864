"""Write docs/configuration.md and .env.example from the settings: `python -m dev.configuration`.

The settings are described where they are declared; a test compares these two files with them.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from configuration.dkim_keys import DkimEntry
from configuration.relay_list import RelayEntry
from configuration.smtp import RELAY_PARTS
from configuration.sources import variable_names
from settings import Settings

ROOT = Path(__file__).parent.parent
TABLE_HEAD = """# Configuration

Written by `python -m dev.configuration` from `configuration/`. The environment comes first, then
NAME_FILE and systemd credentials for any variable, then `.env`. Times are in seconds unless the
name says otherwise.

| variable | default | what it is |
|---|---|---|
"""
TABLE_TAIL = """
## More relays

SMTP_HOST is the relay named `primary`, SMTP_BACKUP_HOST the one named `backup`. RELAYS names more,
behind those two; with it, SMTP_HOST has no default. It is a JSON list, in one line or in several:

```sh
RELAYS='[
  {"name": "eu", "host": "smtp.eu.example.com", "user": "shop", "password_file": "/run/secrets/eu"},
  {"name": "us", "host": "smtp.us.example.com", "port": 465, "max_connections": 5}
]'
```

Or it names a file with that list (`RELAYS=/etc/email-worker/relays.json`), which a reload reads
again; RELAYS_FILE and a systemd credential RELAYS do so too. SMTP_RELAYS, its older name, still
works; both at once are refused. Without ROUTES the relay in front is asked first.
[mail.md](mail.md) tells what the keys do, and how ROUTES chooses.

| key | default | what it is |
|---|---|---|
| `name` |  | Its name in commands, metrics, logs and attempts: letters, digits, `.`, `_`, `-`. |
| `host` |  | As SMTP_HOST. |
{RELAY_ROWS}
| `password_file` |  | A file with the password; without a slash, a systemd credential. |

## DKIM keys

DKIM_KEYS is a JSON list as well, in one line or in several, or the name of a file with it.
[mail.md](mail.md#dkim-signatures) says what is signed, and how a key is made and exchanged.

```sh
DKIM_KEYS='[
  {"domain": "example.com", "selector": "r2026", "key_file": "/etc/email-worker/dkim-rsa.pem"},
  {"domain": "example.com", "selector": "e2026", "key_file": "/etc/email-worker/dkim-ed25519.pem"}
]'
```

| key | what it is |
|---|---|
{DKIM_ROWS}

## How long mail is tried

What ends an e-mail that relays defer is its `expires_at`, or a number of attempts:

| the row | how often it is tried |
|---|---|
| `max_attempts` as its producer chose it (1 to 100 with `queue_email`) | so often |
| none chosen, `EMAIL_MAX_ATTEMPTS` set | so often as that says |
| none chosen, `EMAIL_MAX_ATTEMPTS` not set | until `expires_at`, the last time shortly before it |
| the same, without `expires_at` | for `EMAIL_EXPIRY_HOURS` |

A row for which none was chosen has `max_attempts` 32767: `queue_email` writes that, and
`python -m db.migrate` makes it the column's default where `EMAIL_MAX_ATTEMPTS` is not set (else
that number). Rows from before keep the number they have. After an attempt whose outcome nobody
knows, each further one may be a copy: then such a row gets 4 more, and that as its number.

Only what a relay said about the e-mail counts, and a connection lost in the middle of it. A relay
that cannot be reached, does not greet, gives no TLS, does not let us in or wants fewer e-mails
costs no attempt: mail waits for it and goes on by itself, until it expires.
`python -m ops schedule` prints the times that the current settings give.
"""
EXAMPLE_HEAD = """\
# Copy to .env and change what differs; every line is optional and shows the default.
# Secrets may come from files instead: SMTP_PASSWORD_FILE=/run/secrets/smtp-password, and so on.
"""


def default_of(field: FieldInfo) -> str:
    """Return a field's default as it would stand in a .env file."""
    match field.default:
        case None:
            return ''
        case SecretStr() as secret:
            return secret.get_secret_value()
        case bool() as value:
            return str(value).lower()
        case frozenset() as values:
            return ','.join(sorted(values))
        case Mapping() as pairs:
            return ','.join(f'{name}={value}' for name, value in pairs.items())
        case tuple() as values:
            return ','.join(values)
        case float() as value if value.is_integer():
            return str(int(value))
        case value:
            return str(value)


def configuration_table() -> str:
    """Return docs/configuration.md."""
    rows = []
    for field_name, field in Settings.model_fields.items():
        names = ' or '.join(f'`{name}`' for name in variable_names(field_name, field))
        default = f'`{default_of(field)}`' if default_of(field) else ''
        rows.append(f'| {names} | {default} | {field.description} |')
    tail = TABLE_TAIL.replace('{RELAY_ROWS}', '\n'.join(relay_rows()))
    dkim = (f'| `{key}` | {field.description} |' for key, field in DkimEntry.model_fields.items())
    tail = tail.replace('{DKIM_ROWS}', '\n'.join(dkim))
    return TABLE_HEAD + '\n'.join(rows) + '\n' + tail


def relay_rows() -> list[str]:
    """Return the rows of the keys that an entry of RELAYS may have."""
    rows = []
    for key in dict.fromkeys((*RELAY_PARTS, *RelayEntry.model_fields)):
        if key in ('name', 'host'):
            continue
        field = Settings.model_fields[f'smtp_{key}']
        default = default_of(field) if RelayEntry.model_fields[key].default is not None else ''
        shown = f'`{default}`' if default else ''
        rows.append(f'| `{key}` | {shown} | As {variable_names(f"smtp_{key}", field)[0]}. |')
    return rows


def env_example() -> str:
    """Return .env.example."""
    blocks = []
    for field_name, field in Settings.model_fields.items():
        blocks.append(
            f'# {field.description}\n#{variable_names(field_name, field)[0]}={default_of(field)}\n'
        )
    return EXAMPLE_HEAD + '\n' + '\n'.join(blocks)


def main() -> None:
    """Write both files."""
    (ROOT / 'docs' / 'configuration.md').write_text(configuration_table())
    (ROOT / '.env.example').write_text(env_example())


if __name__ == '__main__':
    main()
