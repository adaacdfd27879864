"""The image by itself: what is in it, and how it runs."""

import json
import subprocess

import pytest

from tests.containers.engine import IMAGE, ROOT

CONFINED = ('--rm', '--read-only', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges')
PACKAGES = (
    'import importlib.metadata as m, json;'
    'print(json.dumps(sorted([d.name.lower().replace("_", "-"), d.version]'
    ' for d in m.distributions())))'
)


@pytest.fixture(scope='module')
def shell(engine):
    """Run a shell command in a container of the image."""

    def run(command):
        return engine.docker(
            'run', *CONFINED, '--tmpfs', '/tmp', '--entrypoint', 'sh', IMAGE, '-ec', command
        )

    return run


def outcome(engine, *arguments):
    ran = subprocess.run(
        ['docker', 'run', *CONFINED, *arguments], env=engine.environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    return ran.returncode, ran.stdout + ran.stderr


def test_its_user_owns_and_writes_nothing(shell):
    assert shell('id -u; id -g') == '10001\n10001\n'
    found = shell(
        'find / -xdev -writable ! -type l ! -path "/tmp*" ! -path "/proc/*" ! -path "/dev/*"'
        ' ! -path /run/lock ! -path "/var/tmp*" 2>/dev/null || true'
    )
    assert found == ''


def test_whatever_the_umask_of_the_checkout_the_program_can_be_read(shell):
    assert shell('find /opt/email-worker ! -type l ! -perm -444') == ''
    assert shell('find /opt/email-worker ! -type l -perm /022') == ''


def test_nothing_but_the_program_is_in_it(shell):
    assert shell('find /opt -name ".env*" -o -name "secret.key"') == ''
    there = set(shell('ls -A /opt/email-worker').split())
    assert not there & {'tests', 'dev', 'bench', 'docs', '.git'}
    assert {'.venv', 'worker.py', 'sbom.cdx.json'} <= there
    assert shell('ls /opt/email-worker/.venv/lib/*/site-packages/pip 2>/dev/null || true') == ''


def test_modules_are_compiled(shell):
    assert shell('ls /opt/email-worker/__pycache__/worker.*.pyc').count('.pyc') == 1


def test_list_of_packages_is_what_is_installed(shell):
    installed = json.loads(shell(f"/opt/email-worker/.venv/bin/python -c '{PACKAGES}'"))
    listed = json.loads(shell('cat /opt/email-worker/sbom.cdx.json'))
    assert listed['bomFormat'] == 'CycloneDX'
    assert (
        sorted(
            [part['name'].lower().replace('_', '-'), part['version']]
            for part in listed['components']
        )
        == installed
    )
    assert len(installed) > 30


@pytest.mark.parametrize('user', ['12345:0', '12345:12345'])
def test_any_user_will_do(engine, user):
    status, said = outcome(engine, '--user', user, IMAGE, '--version')
    assert (status, said.split()[0]) == (0, 'email-worker')


def test_word_that_is_no_command_is_told_with_status_2(engine):
    status, said = outcome(engine, IMAGE, 'nonsense')
    assert status == 2
    assert 'nonsense' in said


@pytest.mark.parametrize(
    ('command', 'remedy'), [('web', 'WEB_TOKEN'), ('ingress', 'INGRESS_TLS_CERTIFICATE')]
)
def test_what_others_could_reach_does_not_start_without_a_guard(engine, command, remedy):
    status, said = outcome(engine, IMAGE, command)
    assert status == 1
    assert f'set {remedy}' in said


def test_health_check_of_a_container_that_cannot_write_says_so(engine):
    name = 'cannot-write'
    engine.docker('run', '--detach', '--name', name, *CONFINED, '--env', 'DB_HOST=127.0.0.1', IMAGE)
    try:
        for line in follow(engine, name):
            if 'health_file.not_written' in line:
                break
        status, said = checked(engine, name)
        assert status == 1
        assert 'cannot write it' in said
    finally:
        engine.docker('kill', name)


def follow(engine, name):
    """Yield a container's log as it comes."""
    with subprocess.Popen(
        ['docker', 'logs', '--follow', name], env=engine.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as following:  # fmt: skip
        yield from following.stdout
        following.kill()


def checked(engine, name):
    ran = subprocess.run(
        ['docker', 'exec', name, 'email-worker-health'], env=engine.environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ran.returncode, ran.stdout + ran.stderr


def test_image_says_what_it_is(engine):
    (described,) = json.loads(engine.docker('image', 'inspect', IMAGE))
    configuration = described['Config']
    assert configuration['Healthcheck']['Test'] == ['CMD', 'email-worker-health']
    assert configuration['User'] == '10001:10001'
    assert configuration['Labels']['org.opencontainers.image.title'] == 'email-worker'
    assert sorted(configuration['ExposedPorts']) == ['2525/tcp', '8625/tcp']
    assert described['Size'] < 400e6
    assert (ROOT / 'deploy/Dockerfile').read_text().count('FROM ${BASE}') == 2
