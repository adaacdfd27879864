"""Compose file, manifests and Dockerfile, read by the programs that they are for."""

import shutil
import subprocess

import pytest
import yaml

from tests.containers.engine import ROOT, run

PLACE = ROOT / 'deploy/kubernetes'


@pytest.fixture(scope='module')
def compose(tools, tmp_path_factory):
    """Ask compose what it makes of the files, as JSON."""
    place = tmp_path_factory.mktemp('compose')
    for name in ('compose.yaml', 'compose.override.yaml'):
        shutil.copy(ROOT / 'deploy/compose' / name, place)

    def ask(*files, env_file=None):
        (place / '.env').write_text(env_file or '')
        chosen = [word for name in files for word in ('-f', name)]
        command = [tools.program('docker-compose'), *chosen, 'config']
        return yaml.safe_load(run(*command, cwd=place))['services']

    return ask


def test_compose_reads_both_files_and_sends_to_the_catcher(compose):
    services = compose()
    assert services['worker']['environment']['SMTP_HOST'] == 'mailpit'
    assert 'mailpit' in services
    assert 'ops' not in services


def test_without_the_override_mail_goes_where_the_env_file_says(compose):
    services = compose(
        'compose.yaml', env_file='SMTP_HOST=smtp.example.com\nSMTP_USER=shop\nDB_HOST=elsewhere\n'
    )
    assert 'mailpit' not in services
    worker, web = services['worker']['environment'], services['web']['environment']
    assert (worker['SMTP_HOST'], worker['SMTP_USER']) == ('smtp.example.com', 'shop')
    assert web['SMTP_USER'] == ''
    assert worker['DB_HOST'] == 'postgres'


def test_kubernetes_knows_every_field_of_the_manifests(tools, tmp_path):
    built = run(tools.program('kubectl'), 'kustomize', PLACE)
    assert built.count('kind: Deployment') == 3
    (tmp_path / 'all.yaml').write_text(built)
    validate = tools.program('kubernetes-validate')
    by_hand = [PLACE / 'secret.example.yaml', PLACE / 'ops.yaml']
    run(validate, '--strict', '--quiet', tmp_path / 'all.yaml', *by_hand)
    (tmp_path / 'wrong.yaml').write_text(built.replace('readOnlyRootFilesystem', 'readOnlyRoot'))
    refused = subprocess.run(
        [validate, '--strict', tmp_path / 'wrong.yaml'], capture_output=True, check=False
    )
    assert refused.returncode != 0


def test_every_pod_of_the_kustomization_is_under_its_network_policies(tools):
    documents = list(yaml.safe_load_all(run(tools.program('kubectl'), 'kustomize', PLACE)))
    (policy,) = [d for d in documents if d['metadata']['name'] == 'email-servers']
    wanted = policy['spec']['podSelector']['matchLabels'].items()
    templates = [d['spec']['template'] for d in documents if d['kind'] in ('Deployment', 'Job')]
    assert len(templates) == 4
    for template in templates:
        assert wanted <= template['metadata']['labels'].items()
        (container,) = template['spec']['containers']
        assert ':' in container['image']


def test_hadolint_has_nothing_to_say_of_the_dockerfile(tools):
    assert run(tools.program('hadolint'), ROOT / 'deploy/Dockerfile') == ''
