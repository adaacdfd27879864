"""The unit of the web page beside the worker's settings, as docs/deployment.md has people write
them.
"""

import re

import pytest

from settings import Settings
from tests.conftest import ROOT

UNIT = (ROOT / 'deploy/email-web.service').read_text()


def test_page_starts_on_the_workers_settings_without_the_relays_secrets():
    """They are in the worker's credentials, and SMTP_USER alone is an error."""
    env = {'smtp_user': 'mailer', 'smtp_backup_user': 'mailer', 'smtp_host': 'relay.example'}
    with pytest.raises(ValueError, match='SMTP_USER needs SMTP_PASSWORD'):
        Settings(_env_file=None, **env)
    unset = {
        name.lower()
        for line in re.findall(r'^UnsetEnvironment=(.+)', UNIT, re.MULTILINE)
        for name in line.split()
    }
    assert Settings(
        _env_file=None, **{n: value for n, value in env.items() if n not in unset}
    ).smtp_host
    assert {'smtp_password', 'smtp_backup_password'} <= unset


def test_firewall_leaves_the_pages_port_to_this_machine_and_monitoring():
    rules = (ROOT / 'deploy/nftables.conf').read_text()
    table = re.search(r'^table inet email_web \{(.*?)^\}', rules, re.DOTALL | re.MULTILINE)[1]
    port = Settings.model_fields['web_port'].default
    assert [
        line.strip() for line in table.splitlines() if re.search(r'\b(accept|drop)$', line)
    ] == [
        'iifname "lo" accept',
        f'tcp dport {port} ip saddr $monitoring accept',
        f'tcp dport {port} counter drop',
    ]


def test_firewall_defines_every_name_it_uses():
    rules = (ROOT / 'deploy/nftables.conf').read_text()
    assert set(re.findall(r'\$(\w+)', rules)) == set(
        re.findall(r'^define (\w+)', rules, re.MULTILINE)
    )
    assert rules.count('{') == rules.count('}')
