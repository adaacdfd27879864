"""docs/compose.md, typed to the letter against a Docker Engine, and what becomes of outages."""

import json
import re
import shutil
import subprocess
import time

import pytest

from tests.containers.engine import ROOT

DOCUMENT = (ROOT / 'docs/compose.md').read_text()
SECTIONS = {
    part.partition('\n')[0]: re.findall(r'```sh\n(.*?)```', part, re.DOTALL)
    for part in DOCUMENT.split('\n## ')
}
# A registry is not reached, and BuildKit is not there: the image is.
HERE = [(' --build', ' --no-build --pull never')]
DEADLINE_S = 60


class Project:
    """The files as a checkout has them, and what is typed beside them."""

    def __init__(self, engine, root):
        self.engine = engine
        self.root = root
        for name in ('compose', 'redis.conf', 'redis-users.acl', 'postgresql-roles.sql'):
            source = ROOT / 'deploy' / name
            if source.is_dir():
                shutil.copytree(source, root / 'deploy' / name,
                                ignore=shutil.ignore_patterns('secrets', '.env'))  # fmt: skip
            else:
                shutil.copy(source, root / 'deploy' / name)

    def type(self, script, directory='deploy/compose', given=''):
        """Type a block of the document."""
        for written, here in HERE:
            script = script.replace(written, here)
        return self.engine.inside('bash', '-ec', script, cwd=self.root / directory, input=given)

    def compose(self, *words):
        return self.engine.docker('compose', *words, cwd=self.root / 'deploy/compose')

    def caught(self):
        """The subjects of what the catcher has."""
        told = self.engine.inside('curl', '-fsS', 'http://127.0.0.1:8026/api/v1/messages')
        return [message['Subject'] for message in json.loads(told)['messages']]

    def state(self, service):
        (container,) = json.loads(
            f'[{",".join(self.compose("ps", "-a", "--format", "json", service).splitlines())}]'
        )
        return container['State'], container['Health'], container['ExitCode']

    def until(self, condition):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, self.compose('logs')
            time.sleep(0.2)


@pytest.fixture(scope='module')
def project(engine, tmp_path_factory):
    """Everything runs, and three e-mails were sent as the document says."""
    root = tmp_path_factory.mktemp('project')
    (root / 'deploy').mkdir()
    project = Project(engine, root)
    try:
        project.said = project.type('\n'.join(SECTIONS['The first mail']), directory='.')
        yield project
    finally:
        subprocess.run(
            ['docker', 'compose', 'down', '--volumes', '--timeout', '1'], check=False,
            cwd=root / 'deploy/compose', env=engine.environment, capture_output=True,
        )  # fmt: skip


def test_the_first_mails_are_caught(project):
    project.until(lambda: len(project.caught()) == 3)
    assert sorted(project.caught()) == ['By SMTP', 'Hello', 'Over HTTP']
    assert 'INSERT 0 1' in project.said
    assert '"id":"' in project.said.replace(' ', '')


def test_metrics_want_the_token_and_show_the_worker_and_all_services(project):
    token = (project.root / 'deploy/compose/secrets/web_token').read_text().strip()
    page = 'http://127.0.0.1:8625'
    assert 'ready' in project.engine.inside('curl', '-fsS', f'{page}/health/ready')
    code = ('curl', '-sS', '-o', '/dev/null', '-w', '%{http_code}')
    assert project.engine.inside(*code, f'{page}/metrics') == '401'
    project.compose('run', '--rm', 'ops', 'call', 'check_service_health', '--wait', '--yes')

    def has(metric):
        asked = project.engine.inside('curl', '-fsS', '-u', f'me:{token}', f'{page}/metrics')
        return re.search(rf'^{metric} 1\.0$', asked, re.MULTILINE)

    project.until(lambda: has(r'email_worker_up\{.*\}'))
    for service in ('postgresql', 'redis_queue', 'redis_cache', 'smtp_primary'):
        project.until(lambda name=service: has(rf'email_service_up\{{service="{name}"\}}'))


def test_operators_see_nothing_wrong(project):
    assert 'worker@' in project.compose('run', '--rm', 'ops', 'status')
    project.compose('run', '--rm', 'ops', 'held', 'ls')


def test_worker_finishes_and_ends_well_when_it_is_stopped(project):
    project.compose('stop', 'worker')
    assert project.state('worker') == ('exited', '', 0)
    assert 'worker.stopped' in project.compose('logs', 'worker')
    project.compose('up', '--no-build', '--pull', 'never', '--wait', 'worker')


def test_worker_that_waits_for_postgresql_lives_and_is_not_ready(project):
    project.compose('stop', 'postgres')
    project.compose('restart', 'worker')

    def check(*options):
        ran = subprocess.run(
            ['docker', 'compose', 'exec', '-T', 'worker', 'email-worker-health', *options],
            cwd=project.root / 'deploy/compose', env=project.engine.environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return ran.returncode, ran.stdout

    project.until(lambda: check() == (0, 'starting: Waiting for PostgreSQL at postgres:5432/app\n'))
    assert check('--ready')[0] == 1
    project.compose('start', 'postgres')
    project.until(lambda: check('--ready') == (0, 'ready: Serving arq:queue\n'))


def test_servers_reach_nobody_outside_their_network_and_the_worker_reaches_relays(project):
    (catcher,) = json.loads(project.engine.docker('inspect', 'email-mailpit-1'))
    address = catcher['NetworkSettings']['Networks']['email_default']['IPAddress']

    def reaches(service):
        dial = f'timeout 2 bash -c "exec 3<>/dev/tcp/{address}/1025" && echo yes || echo no'
        return project.compose('exec', '-T', service, 'sh', '-c', dial).strip()

    assert {name: reaches(name) for name in ('worker', 'postgres', 'valkey')} == {
        'worker': 'yes', 'postgres': 'no', 'valkey': 'no',
    }  # fmt: skip


def test_dump_is_one(project):
    (dump,) = SECTIONS['What is where']
    project.type(dump)
    assert (project.root / 'deploy/compose/mail.dump').read_bytes()[:5] == b'PGDMP'


def test_relay_of_ones_own_takes_the_catchers_place(project):
    """The last: nothing is caught any more."""
    (block,) = SECTIONS['A relay of yours']
    project.type(block, given='the-password')
    assert 'mailpit' not in project.compose('ps', '-a', '--services')
    asked = project.compose('run', '--rm', 'ops', 'inspect', 'conf', '--json')
    assert 'smtp.example.com' in asked
    assert 'the-password' not in asked
    for service in ('worker', 'web', 'ingress'):
        assert project.state(service)[:2] == ('running', 'healthy')
