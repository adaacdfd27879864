"""deploy/Dockerfile: the image has what an installation has, and runs as nobody in particular."""

import re

from process.supervisor import HEALTH_FEED_S
from settings import Settings
from tests.conftest import ROOT

DOCKERFILE = (ROOT / 'deploy/Dockerfile').read_text()
BUILD, FINAL = DOCKERFILE.split('\nFROM ${BASE}\n')
ENVIRONMENT = dict(
    pair.split('=', 1) for line in re.findall(r'^ENV ((?:.*\\\n)*.*)', FINAL, re.MULTILINE)
    for pair in re.findall(r'\w+=\S+', line)
)  # fmt: skip
HEALTH = (ROOT / 'deploy/email-worker-health').read_text()


def test_context_is_what_the_installer_installs_without_documents():
    installer = (ROOT / 'deploy/install.sh').read_text()
    parts = set(re.search(r'^PARTS=\((.*)\)', installer, re.MULTILINE)[1].split())
    lines = (ROOT / '.dockerignore').read_text().splitlines()
    assert lines[1] == '*'
    allowed = {line[1:] for line in lines if line.startswith('!')}
    files = {name for name in allowed if name.startswith('deploy/')}
    assert allowed - files - {'*.py'} == parts - {
        'deploy', 'docs', 'README.md', 'CHANGELOG.md', '.env.example',
    }  # fmt: skip
    assert {name for name in files if not (ROOT / name).is_file()} == set()


def test_packages_are_locked_by_hash_and_taken_as_wheels():
    installs = re.findall(r'pip install .* -r (\S+)', DOCKERFILE)
    assert installs == ['/build/requirements.txt', '/build/requirements-sbom.txt']
    assert 'PIP_REQUIRE_HASHES=1 PIP_ONLY_BINARY=:all:' in BUILD
    for lock in ('requirements.txt', 'deploy/requirements-sbom.txt'):
        text = (ROOT / lock).read_text()
        assert len(re.findall(r'^[\w.-]+(?:\[[\w,]+\])?==', text, re.MULTILINE)) > 20
        for entry in re.split(r'\n(?=[a-z])', text):
            assert '==' not in entry or '--hash=sha256:' in entry, entry


def test_last_stage_installs_nothing_and_is_not_root():
    assert not re.search(r'pip|apt-get|curl|wget', re.sub(r'^#.*', '', FINAL, flags=re.MULTILINE))
    uid, gid = re.search(r'^USER (\d+):(\d+)$', FINAL, re.MULTILINE).groups()
    assert uid == gid == re.search(r'useradd --uid (\d+)', FINAL)[1] != '0'
    assert re.search(r'^ENTRYPOINT \["email-worker"\]\nCMD \["run"\]', FINAL, re.MULTILINE)


def test_its_environment_is_settings_of_ours_or_of_python():
    others = {'CREDENTIALS_DIRECTORY', 'HOME'}
    ours = {name for name in ENVIRONMENT if name not in others and not name.startswith('PYTHON')}
    assert ours == {'WEB_HOST', 'INGRESS_HOST', 'HEALTH_FILE'}
    assert {name for name in ours if name.lower() not in Settings.model_fields} == set()
    assert ENVIRONMENT['HEALTH_FILE'].startswith('/tmp/')


def test_exposed_ports_are_those_it_listens_on():
    exposed = re.search(r'^EXPOSE (.*)$', FINAL, re.MULTILINE)[1].split()
    fields = Settings.model_fields
    assert exposed == [str(fields['web_port'].default), str(fields['ingress_port'].default)]


def test_health_check_has_the_patience_of_the_workers_watchdog():
    patience_s = int(re.search(r'^MAX_AGE_S=(\d+)', HEALTH, re.MULTILINE)[1])
    unit = (ROOT / 'deploy/email-worker.service').read_text()
    assert patience_s == int(re.search(r'^WatchdogSec=(\d+)', unit, re.MULTILINE)[1])
    assert patience_s >= 6 * HEALTH_FEED_S
    assert re.search(r'^HEALTHCHECK .* CMD \["email-worker-health"\]$', FINAL, re.MULTILINE)
