"""deploy/kubernetes: as strict as the units, and of one piece."""

import re
import subprocess

import pytest
import yaml

from configuration.sources import variable_names
from process.supervisor import STOP_MARGIN_S
from settings import Settings
from tests.conftest import ROOT

PLACE = ROOT / 'deploy/kubernetes'
KUSTOMIZATION = yaml.safe_load((PLACE / 'kustomization.yaml').read_text())
DOCUMENTS = [
    document
    for path in sorted(PLACE.glob('*.yaml'))
    for document in yaml.safe_load_all(path.read_text())
]
KNOWN = {
    name for field, info in Settings.model_fields.items() for name in variable_names(field, info)
}
DRAINS_S = {
    'email-worker': Settings.model_fields['worker_drain_s'].default + STOP_MARGIN_S,
    'email-web': 6 + 5,
    'email-ingress': 11 + 5,
}


def named(kind):
    return {d['metadata']['name']: d for d in DOCUMENTS if d.get('kind') == kind}


def pod_of(document):
    return document['spec'] if document['kind'] == 'Pod' else document['spec']['template']['spec']


DEPLOYMENTS = named('Deployment')
PODS = {**DEPLOYMENTS, **named('Job'), **named('Pod')}
SECRETS = named('Secret')
SETTINGS = named('ConfigMap')


def test_every_file_is_in_the_kustomization_or_made_by_hand():
    by_hand = {'secret.example.yaml', 'ops.yaml', 'scaling.yaml', 'kustomization.yaml'}
    assert {path.name for path in PLACE.iterdir()} - by_hand == set(KUSTOMIZATION['resources'])
    assert set(PODS) == {'email-worker', 'email-web', 'email-ingress', 'email-migrate', 'email-ops'}


@pytest.mark.parametrize('name', PODS)
def test_pods_keep_the_restricted_profile_and_write_memory_only(name):
    pod = pod_of(PODS[name])
    (container,) = pod['containers']
    assert pod['securityContext']['runAsNonRoot'] is True
    assert pod['securityContext']['seccompProfile'] == {'type': 'RuntimeDefault'}
    assert container['securityContext'] == {
        'readOnlyRootFilesystem': True,
        'allowPrivilegeEscalation': False,
        'capabilities': {'drop': ['ALL']},
    }
    assert pod['automountServiceAccountToken'] is False
    writable = [m['mountPath'] for m in container['volumeMounts'] if not m.get('readOnly')]
    assert writable == ['/tmp']
    (tmp,) = [volume for volume in pod['volumes'] if volume['name'] == 'tmp']
    assert tmp['emptyDir']['medium'] == 'Memory'


@pytest.mark.parametrize('name', PODS)
def test_pods_run_as_the_images_user(name):
    uid = int(re.search(r'^USER (\d+)', (ROOT / 'deploy/Dockerfile').read_text(), re.MULTILINE)[1])
    context = pod_of(PODS[name])['securityContext']
    assert {context[key] for key in ('runAsUser', 'runAsGroup', 'fsGroup')} == {uid}


@pytest.mark.parametrize('name', PODS)
def test_pods_have_the_image_of_this_version(name):
    version = re.search(r'^version = "(.*)"$', (ROOT / 'pyproject.toml').read_text(), re.MULTILINE)
    (image,) = KUSTOMIZATION['images']
    assert image['newTag'] == version[1]
    assert pod_of(PODS[name])['containers'][0]['image'] in (
        image['name'],
        f'{image["newName"]}:{image["newTag"]}',
    )


@pytest.mark.parametrize('name', PODS)
def test_settings_and_secrets_of_a_pod_are_there(name):
    pod = pod_of(PODS[name])
    asked = {source['configMapRef']['name'] for source in pod['containers'][0]['envFrom']}
    assert asked <= set(SETTINGS)
    (secret,) = [volume['secret'] for volume in pod['volumes'] if volume['name'] == 'secrets']
    assert secret['secretName'] in SECRETS


def test_every_setting_and_every_secret_is_a_variable_that_exists():
    given = {name for document in SETTINGS.values() for name in document['data']}
    given |= {name for document in SECRETS.values() for name in document['stringData']}
    given |= {
        variable['name']
        for document in PODS.values()
        for variable in pod_of(document)['containers'][0].get('env', ())
    }
    assert given - KNOWN == set()


def test_relays_user_is_the_workers_alone():
    """Without its password, SMTP_USER is an error."""
    for name, document in PODS.items():
        sources = pod_of(document)['containers'][0]['envFrom']
        has_relays = {'configMapRef': {'name': 'email-relays'}} in sources
        assert has_relays == (name == 'email-worker')
    assert 'SMTP_PASSWORD' in SECRETS['email-worker']['stringData']


@pytest.mark.parametrize('name', DEPLOYMENTS)
def test_a_pod_that_stops_has_the_time_that_it_needs(name):
    assert pod_of(DEPLOYMENTS[name])['terminationGracePeriodSeconds'] > DRAINS_S[name]


@pytest.mark.parametrize('name', DEPLOYMENTS)
def test_memory_is_limited_as_in_the_unit(name):
    unit = (ROOT / f'deploy/{name}.service').read_text()
    limit = pod_of(DEPLOYMENTS[name])['containers'][0]['resources']['limits']['memory']
    assert limit.removesuffix('i') == re.search(r'^MemoryMax=(.*)$', unit, re.MULTILINE)[1]


@pytest.mark.parametrize('name', DEPLOYMENTS)
def test_probes_need_no_token_and_no_server(name):
    container = pod_of(DEPLOYMENTS[name])['containers'][0]
    for probe in ('startupProbe', 'livenessProbe', 'readinessProbe'):
        asked = container[probe]
        if name == 'email-web':
            assert asked['httpGet'] == {'path': '/health/live', 'port': 'http'}
        else:
            assert asked['exec']['command'][0] == 'email-worker-health'


@pytest.mark.parametrize('kind', ['PodDisruptionBudget', 'Service'])
def test_selectors_find_the_pods_of_their_name(kind):
    found = named(kind)
    assert set(found) >= {'email-web', 'email-ingress'}
    for name, document in found.items():
        selector = document['spec']['selector']
        labels = DEPLOYMENTS[name]['spec']['template']['metadata']['labels']
        assert selector.get('matchLabels', selector) == labels


def test_ports_are_those_of_the_settings():
    ports = {
        name: pod_of(document)['containers'][0]['ports'][0]['containerPort']
        for name, document in DEPLOYMENTS.items()
        if name != 'email-worker'
    }
    fields = Settings.model_fields
    assert ports == {
        'email-web': fields['web_port'].default,
        'email-ingress': fields['ingress_port'].default,
    }
    for name, port in ports.items():
        assert named('Service')[name]['spec']['ports'][0]['port'] == port


def test_scaling_asks_for_metrics_that_there_are():
    (trigger,) = named('ScaledObject')['email-worker']['spec']['triggers']
    asked = set(re.findall(r'\bemail_\w+', trigger['metadata']['query']))
    assert asked == {'email_outbox_oldest_due_seconds', 'email_service_up'}
    metrics = (ROOT / 'docs/metrics.md').read_text()
    assert {name for name in asked if f'| `{name}` |' not in metrics} == set()
    tested = (ROOT / 'deploy/prometheus-alerts.test.yml').read_text()
    assert f'expr: {trigger["metadata"]["query"]}\n' in tested
    pods = named('ScaledObject')['email-worker']['spec']['scaleTargetRef']['name']
    assert pods in DEPLOYMENTS


def test_document_is_shell_and_names_what_exists():
    text = (ROOT / 'docs/kubernetes.md').read_text()
    script = '\n'.join(re.findall(r'```sh\n(.*?)```', text, re.DOTALL))
    subprocess.run(['bash', '-n'], input=script, text=True, check=True)
    files = set(re.findall(r'\bdeploy/[\w./-]*\w', text))
    assert len(files) > 5
    assert {name for name in files if not (ROOT / name).exists()} == set()
    objects = set(re.findall(r'\b(?:deployment|deploy|job)/(email-[a-z]+)', script))
    assert objects == {'email-worker', 'email-migrate'} <= set(PODS)
    assert f'email-worker:{KUSTOMIZATION["images"][0]["newTag"]}' in script
