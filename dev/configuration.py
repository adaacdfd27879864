"""Write docs/configuration.md and .env.example from settings.py: `python -m dev.configuration`.

The settings are described where they are declared; a test compares these two files with them.
"""

from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from settings import Settings
from settings_sources import variable_names

ROOT = Path(__file__).parent.parent
TABLE_HEAD = """# Configuration

Written by `python -m dev.configuration` from `settings.py`. The environment comes first, then NAME_FILE and systemd
credentials for any variable, then `.env`. Times are in seconds unless the name says otherwise.

| variable | default | what it is |
|---|---|---|
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
    return TABLE_HEAD + '\n'.join(rows) + '\n'


def env_example() -> str:
    """Return .env.example."""
    blocks = []
    for field_name, field in Settings.model_fields.items():
        blocks.append(f'# {field.description}\n#{variable_names(field_name, field)[0]}={default_of(field)}\n')
    return EXAMPLE_HEAD + '\n' + '\n'.join(blocks)


def main() -> None:
    """Write both files."""
    (ROOT / 'docs' / 'configuration.md').write_text(configuration_table())
    (ROOT / '.env.example').write_text(env_example())


if __name__ == '__main__':
    main()
