"""deploy/compose: as strict as the units, with settings that exist and secrets that are made."""

import os
import re
import shutil
import stat
import subprocess

import pytest
import yaml

from configuration.sources import variable_names
from settings import Settings
from tests.conftest import ROOT

PLACE = ROOT / 'deploy/compose'
COMPOSE = yaml.safe_load((PLACE / 'compose.yaml').read_text())
CATCHER = yaml.safe_load((PLACE / 'compose.override.yaml').read_text())
SERVICES = COMPOSE['services']
OURS = ['migrate', 'worker', 'web', 'ingress', 'ops']
UNITS = {'worker': 'email-worker', 'web': 'email-web', 'ingress': 'email-ingress'}
KNOWN = {
    name for field, info in Settings.model_fields.items() for name in variable_names(field, info)
}


@pytest.fixture(scope='module')
def secrets(tmp_path_factory):
    """What make-secrets makes."""
    place = tmp_path_factory.mktemp('deploy')
    (place / 'compose').mkdir()
    shutil.copy(ROOT / 'deploy/redis-users.acl', place)
    script = shutil.copy(PLACE / 'make-secrets', place / 'compose')
    subprocess.run([script], check=True, capture_output=True)
    return place / 'compose/secrets'


def unit_of(service):
    return (ROOT / f'deploy/{UNITS[service]}.service').read_text()


def of_unit(service, directive):
    return re.search(rf'^{directive}=(.*)$', unit_of(service), re.MULTILINE)[1]


def test_every_image_from_a_registry_has_a_version():
    images = {
        service['image']
        for service in (SERVICES | CATCHER['services']).values()
        if 'image' in service and not service['image'].startswith('email-worker:')
    }
    assert len(images) == 3
    for image in images:
        assert re.search(r':v?\d+\.\d+', image), image


@pytest.mark.parametrize('name', OURS)
def test_what_is_ours_can_write_nothing_and_has_no_rights(name):
    service = SERVICES[name]
    assert service['read_only'] is True
    assert service['tmpfs'] == ['/tmp']
    assert service['cap_drop'] == ['ALL']
    assert service['security_opt'] == ['no-new-privileges:true']


@pytest.mark.parametrize('name', OURS)
def test_settings_and_secrets_of_ours_are_variables_that_exist(name):
    service = SERVICES[name]
    files = {'ingress.pem'}
    named = set(service['environment']) | {secret['target'] for secret in service['secrets']}
    assert named - files - KNOWN == set()
    assert named >= {'DB_HOST', 'DB_USER', 'DB_PASSWORD'}


def test_each_program_has_a_role_of_its_own_whose_password_is_set():
    roles = (ROOT / 'deploy/postgresql-roles.sql').read_text()
    passwords = (PLACE / 'passwords.sql').read_text()
    users = [SERVICES[name]['environment']['DB_USER'] for name in OURS if name != 'migrate']
    assert len(set(users)) == len(users)
    for user in [*users, 'email_producer']:
        assert f"'{user}'" in roles
        variable = re.search(rf"^ALTER ROLE {user} PASSWORD :'(\w+)';", passwords, re.MULTILINE)[1]
        secret = re.search(rf'^\\set {variable} `cat /run/secrets/(\w+)`', passwords, re.MULTILINE)
        assert secret[1] in SERVICES['roles']['secrets']


@pytest.mark.parametrize('name', UNITS)
def test_limits_are_those_of_the_units(name):
    service = SERVICES[name]
    assert service['mem_limit'].upper() == of_unit(name, 'MemoryMax')
    assert str(service['pids_limit']) == of_unit(name, 'TasksMax')
    assert str(service['ulimits']['nofile']) == of_unit(name, 'LimitNOFILE')
    assert service['stop_grace_period'] == of_unit(name, 'TimeoutStopSec') + 's'


@pytest.mark.parametrize('name', UNITS)
def test_services_are_ready_when_their_health_check_says_so(name):
    assert SERVICES[name]['healthcheck']['test'] == ['CMD', 'email-worker-health', '--ready']


def test_only_this_machine_reaches_what_is_published():
    published = [
        port
        for service in (SERVICES | CATCHER['services']).values()
        for port in service.get('ports', ())
    ]
    assert len(published) == 3
    assert {port.split(':')[0] for port in published} == {'127.0.0.1'}
    assert 'ports' not in SERVICES['postgres']
    assert 'ports' not in SERVICES['valkey']


def test_relays_user_is_the_workers_alone():
    """Without its password, SMTP_USER is an error."""
    for name in OURS:
        emptied = SERVICES[name]['environment'].get('SMTP_USER') == ''
        assert emptied == (name != 'worker')


def test_every_secret_is_made(secrets):
    made = {path.name for path in secrets.iterdir()}
    assert {f'secrets/{name}' for name in made} >= {
        secret['file'] for secret in COMPOSE['secrets'].values()
    }
    used = {
        secret if isinstance(secret, str) else secret['source']
        for service in SERVICES.values()
        for secret in service.get('secrets', ())
    }
    assert used == set(COMPOSE['secrets'])


def test_secrets_are_for_whoever_enters_their_directory_and_no_two_are_the_same(secrets):
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o444}
    texts = [path.read_text() for path in secrets.iterdir()]
    assert len(set(texts)) == len(texts)
    assert (secrets / 'smtp_password').read_text() == ''
    assert len((secrets / 'web_token').read_text().strip()) >= 16


def test_redis_users_have_the_passwords_of_the_urls(secrets):
    users = (secrets / 'redis_users').read_text()
    assert 'CHANGE' not in users
    for name in ('worker', 'web', 'producer', 'operator'):
        url = (secrets / f'redis_{name}').read_text()
        user, password = re.fullmatch(r'redis://([\w-]+):(\w+)@valkey:6379/1\n', url).groups()
        assert f'user {user} on >{password} ' in users


def test_secrets_that_are_there_stay_and_rights_follow_the_version(secrets):
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    (secrets / 'redis_users').chmod(0o644)
    (secrets / 'redis_users').write_text('user default off\n')
    (secrets / 'db_app').unlink()
    ran = subprocess.run(
        [secrets.parent / 'make-secrets'], check=True, capture_output=True, text=True
    )
    assert ran.stdout == 'made secrets/db_app\n'
    after = {path.name: path.read_text() for path in secrets.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {'db_app'}
    assert after['redis_users'] == before['redis_users']


def test_missing_openssl_is_told(tmp_path):
    (tmp_path / 'compose').mkdir()
    script = shutil.copy(PLACE / 'make-secrets', tmp_path / 'compose')
    for program in ('dirname', 'mkdir'):
        (tmp_path / program).symlink_to(shutil.which(program))
    ran = subprocess.run(
        ['/bin/sh', script], env=os.environ | {'PATH': str(tmp_path)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (1, 'make-secrets: openssl is missing\n')
    assert not (tmp_path / 'compose/secrets').exists()
