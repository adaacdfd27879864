import re

import pytest

import configuration.view
from configuration.version import program_version
from configuration.view import digest, view
from settings import Settings
from tests.conftest import ROOT

SECRETS = {
    'arq_redis_url': 'redis://mail:geheim1@redis.example:6379/1?ssl_cert_reqs=none',
    'database_url': 'postgresql://mail:geheim2@db.example/mail?password=geheim3',
    'mongodb_url': 'mongodb://mail:geheim4@mongo.example/mail',
    'smtp_user': 'user',
    'smtp_password': 'geheim5',
}


def make(**changed):
    return Settings(_env_file=None, **SECRETS | changed)


def test_view_shows_where_urls_lead_and_no_secret():
    shown = view(make(email_hold_types='b,a'))
    assert shown['ARQ_REDIS_URL'] == 'redis://***@redis.example:6379/1?***'
    assert shown['DATABASE_URL'] == 'postgresql://***@db.example/mail?***'
    assert shown['MONGODB_URL'] == 'mongodb://***@mongo.example/mail'
    assert (shown['SMTP_PASSWORD'], shown['SMTP_BACKUP_PASSWORD']) == ('***', None)
    assert shown['EMAIL_HOLD_TYPES'] == ['a', 'b']
    assert 'geheim' not in str(shown)


@pytest.mark.parametrize(
    'url', ['redis://:p/w@host/1', 'redis://:p@w@host/1', 'redis://:p?w@host/1']
)
def test_password_with_reserved_characters_is_hidden_as_a_whole(url):
    assert configuration.view._without_secret(url) == 'redis://***@host/1'


def test_digest_differs_by_settings_but_not_by_secrets_or_the_workers_name():
    assert digest(make()) == digest(make(smtp_password='other', worker_name='mail7'))
    assert digest(make()) != digest(make(smtp_port=2525))


def test_version_is_the_projects_own():
    assert (
        program_version()
        in (configuration.view.Path(__file__).parents[2] / 'pyproject.toml').read_text()
    )


def test_version_is_the_newest_of_the_changelog():
    changelog = (ROOT / 'CHANGELOG.md').read_text()
    newest = next(line for line in changelog.splitlines() if re.match(r'## \d', line))
    assert newest.split()[1] == program_version()


def test_networks_are_shown_as_they_are_written_and_have_a_digest():
    settings = make(webhook_allowed_networks='10.1.2.0/24,::1', web_trusted_proxies='127.0.0.1')
    assert view(settings)['WEBHOOK_ALLOWED_NETWORKS'] == ['10.1.2.0/24', '::1/128']
    assert digest(settings) != digest(make())
