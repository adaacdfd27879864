"""The command `email-worker`: what it starts, where, with which settings."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from email_worker import PROGRAMS, WORKERS, completion_script, run_arguments
from ops.__main__ import make_parser
from ops.commands import COMMANDS
from reporting.problems import SETTINGS_FOR
from settings import Settings
from tests.conftest import ROOT

COMMAND = ROOT / 'deploy/email-worker'
PYTHON = {'EMAIL_WORKER_PYTHON': sys.executable}  # these tests' own, wherever it is
# What stands in for Python: it says what it was called with.
RECORDER = """#!/bin/sh
pwd
printf '%s\\n' "$@"
printf 'DATABASE_URL=%s\\n' "${DATABASE_URL-}"
exit 7
"""


def ran(*words, command=COMMAND, cwd='/', env=PYTHON):
    return subprocess.run(
        [command, *words], cwd=cwd, env={'PATH': os.environ['PATH']} | env,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def make_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def recorder(tmp_path):
    return {'EMAIL_WORKER_PYTHON': str(make_program(tmp_path / 'python', RECORDER))}


def test_help_names_every_program_and_version_is_the_projects():
    told = ran('--help')
    assert (told.returncode, told.stderr) == (0, '')
    for name in PROGRAMS:
        assert re.search(rf'^ +{name} ', told.stdout, re.MULTILINE)
    version = re.search('^version = "(.*)"$', (ROOT / 'pyproject.toml').read_text(), re.MULTILINE)
    assert ran('--version').stdout == f'email-worker {version[1]}\n'


@pytest.mark.parametrize('words', [[], ['--help'], ['run', '--help'], ['web', '--help']])
def test_help_is_for_everybody(words):
    assert ran(*words).stdout.startswith('usage: email-worker')


@pytest.mark.parametrize(
    ('words', 'complaint'),
    [
        (['frobnicate'], "'frobnicate'"),
        (['run', 'no_such_queue'], "no worker serves 'no_such_queue'"),
        (['web', 'please'], 'unrecognized arguments: please'),
        (['ops', 'frobnicate'], "'frobnicate'"),
        (['-m'], '-m needs a module'),
        (['--env', '/no/such/file', 'run'], 'cannot read /no/such/file'),
    ],
)
def test_wrong_use_ends_with_2_and_says_what_is_wrong(words, complaint):
    told = ran(*words)
    assert (told.returncode, told.stdout) == (2, '')
    assert complaint in told.stderr


def test_it_runs_in_its_own_directory_through_links_with_the_programs_exit_status(
    recorder, tmp_path
):
    (tmp_path / 'a bin').mkdir()
    link = tmp_path / 'a bin/email-worker'
    link.symlink_to(COMMAND)
    told = ran('ops', 'failed', '--error-like', 'a b', command=link, cwd=tmp_path, env=recorder)
    assert told.returncode == 7
    assert told.stdout.splitlines()[:-1] == [
        str(ROOT), f'{ROOT}/email_worker.py', 'ops', 'failed', '--error-like', 'a b',
    ]  # fmt: skip


def test_module_runs_on_the_same_python(recorder):
    told = ran('-m', 'db.migrate', '--dry-run', env=recorder)
    assert told.stdout.splitlines()[:-1] == [str(ROOT), '-m', 'db.migrate', '--dry-run']


@pytest.mark.parametrize('value', ['postgresql://a:$b&c@d/e f', "it's", ''])
@pytest.mark.parametrize('quote', ['', '"', "'"])
def test_settings_of_an_env_file_win_and_are_taken_literally(recorder, tmp_path, value, quote):
    settings = tmp_path / 'the owner.env'
    settings.write_text(f'# of the owner\n\nDATABASE_URL={quote}{value}{quote}')
    given = recorder | {'DATABASE_URL': 'x'}
    told = ran('--env', settings.name, 'migrate', cwd=tmp_path, env=given)
    assert told.stdout.splitlines()[-1] == f'DATABASE_URL={value}'


@pytest.mark.parametrize('line', ['hunter2', 'export A=hunter2', '1A=hunter2', '$(id)=hunter2'])
def test_line_of_an_env_file_that_is_no_assignment_is_refused_without_showing_values(
    recorder, tmp_path, line
):
    settings = tmp_path / 'env'
    settings.write_text(line)
    told = ran('--env', str(settings), 'migrate', env=recorder)
    assert (told.returncode, told.stdout) == (2, '')
    assert str(settings) in told.stderr
    assert line == 'hunter2' or 'hunter2' not in told.stderr


@pytest.mark.parametrize(
    'words',
    [['--env', 'FILE', 'ops', 'show', 'a b'], ['ops', '--env', 'FILE', 'show', 'a b'],
     ['ops', 'show', 'a b', '--env', 'FILE']],
)  # fmt: skip
def test_env_file_may_stand_anywhere(recorder, tmp_path, words):
    settings = tmp_path / 'the owner.env'
    settings.write_text('DATABASE_URL=postgresql://owner')
    told = ran(*(str(settings) if w == 'FILE' else w for w in words), env=recorder)
    assert told.stdout.splitlines()[2:] == [
        'ops', 'show', 'a b', 'DATABASE_URL=postgresql://owner',
    ]  # fmt: skip


def test_what_follows_two_dashes_is_left_alone(recorder):
    words = ['ops', 'file: x', 'file x', '--', '--env', 'file ', '--', ':--env']
    assert ran(*words, env=recorder).stdout.splitlines()[2:-1] == words
    told = ran('ops', '--env', env=recorder)
    assert (told.returncode, 'the file after --env' in told.stderr) == (2, True)


def test_without_an_environment_it_says_how_to_make_one(tmp_path):
    alone = shutil.copy(COMMAND, tmp_path / 'email-worker')
    told = ran('ops', 'status', command=alone, env={})
    assert (told.returncode, told.stdout) == (2, '')
    assert 'make setup' in told.stderr


@pytest.fixture
def machine(tmp_path):
    """A release of install.sh on a machine with systemd; both are below tmp_path."""
    release = tmp_path / 'opt/email-worker/releases/0.3.0-0'
    make_program(release / '.venv/bin/python', RECORDER)
    text = COMMAND.read_text()
    for path in ('/opt/email-worker', '/run/systemd/system'):
        assert path in text
        text = text.replace(path, f'{tmp_path}{path}')
    (tmp_path / 'run/systemd/system').mkdir(parents=True)
    make_program(tmp_path / 'bin/systemd-run', '#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    command = make_program(release / 'deploy/email-worker', text)
    shutil.copy(ROOT / 'deploy/email-worker.service', release / 'deploy')
    return command


@pytest.mark.parametrize(
    ('words', 'name'),
    [
        (['migrate'], 'owner'), (['-m', 'db.migrate'], 'owner'),
        (['ops', 'status'], 'operator'), (['-m', 'ops', 'status'], 'operator'),
        (['run'], None),
    ],
)  # fmt: skip
def test_root_migrates_as_the_owner_and_operates_as_the_operator_where_they_have_settings(
    machine, tmp_path, words, name
):
    etc = tmp_path / 'etc/email-worker'
    machine.write_text(machine.read_text().replace('/etc/email-worker/o', f'{etc}/o'))
    etc.mkdir(parents=True)

    def given():
        said = on(machine, 0, *words).stdout.splitlines()
        return [line for line in said if line.endswith(('owner.env', 'operator.env'))]

    assert given() == []
    for role in ('owner', 'operator'):
        (etc / f'{role}.env').touch()
    wanted = [f'--property=EnvironmentFile={etc}/{name}.env'] if name else []
    assert given() == wanted


def on(machine, user_id, *words, **env):
    bin_ = machine.parents[5] / 'bin'
    make_program(bin_ / 'id', f'#!/bin/sh\necho {user_id}\n')
    path = f'{bin_}:{os.environ["PATH"]}'
    return ran(*words, command=machine, env={'PATH': path} | env)


def test_root_on_an_installed_machine_runs_as_the_worker_with_its_settings(machine, tmp_path):
    owner = tmp_path / 'the owner.env'
    owner.touch()
    told = on(machine, 0, '--env', owner, 'ops', 'failed', '--error-like', 'a b')
    said = told.stdout.splitlines()
    assert told.returncode == 7
    assert '--property=User=email-worker' in said
    assert f'--property=WorkingDirectory={machine.parents[1]}' in said
    assert said.index(f'--property=EnvironmentFile={owner}') > said.index(
        '--property=EnvironmentFile=/etc/email-worker/env'
    )
    unit = (ROOT / 'deploy/email-worker.service').read_text()
    wanted = set(re.findall('^(LoadCredential=.*)$', unit, re.MULTILINE))
    assert {line.removeprefix('--property=') for line in said if 'LoadCredential' in line} == wanted
    assert said[said.index('--') + 2 :] == [
        f'{machine.parents[1]}/email_worker.py', 'ops', 'failed', '--error-like', 'a b',
    ]  # fmt: skip


@pytest.mark.parametrize(
    'words', [['--version'], ['ops', 'retry', '--help'], ['completion', 'bash'], ['-h']]
)
def test_root_asks_for_help_without_systemd(machine, words):
    assert on(machine, 0, *words).stdout.splitlines()[2:-1] == words


def test_service_and_people_with_settings_of_their_own_run_it_directly(machine):
    for given in ({'INVOCATION_ID': '1'}, {'DATABASE_URL': 'postgresql://mine'}):
        assert on(machine, 1000, 'ops', 'status', **given).stdout.splitlines()[2:4] == [
            'ops', 'status',
        ]  # fmt: skip


def test_people_without_the_installations_settings_are_told_to_use_sudo(machine):
    told = on(machine, 1000, 'ops', 'status')
    assert (told.returncode, told.stdout) == (2, '')
    assert 'sudo email-worker ops status' in told.stderr


@pytest.mark.parametrize(
    ('variable', 'words', 'told'),
    [
        (None, [], ['worker.WorkerSettings']),
        (None, ['high_priority', '--burst'], ['worker.HighPriority', '--burst']),
        (None, ['worker.LowPriority', '--check'], ['worker.LowPriority', '--check']),
        ('worker.LowPriority', [], ['worker.LowPriority']),
        ('worker.LowPriority', ['arq:queue', '-v'], ['worker.WorkerSettings', '--verbose']),
        (None, ['--watch', 'mail'], ['worker.WorkerSettings', '--watch', 'mail']),
    ],
)
def test_run_tells_arq_whose_queue_to_serve(monkeypatch, variable, words, told):
    monkeypatch.delenv('WORKER_SETTINGS', raising=False)
    if variable:
        monkeypatch.setenv('WORKER_SETTINGS', variable)
    assert run_arguments(words) == told


def test_queues_are_those_that_remedies_name():
    assert WORKERS == SETTINGS_FOR


@pytest.mark.parametrize(
    ('typed', 'completed'),
    [
        ([''], {'run', 'web', 'ingress', 'migrate', 'ops', 'completion'}),
        (['ops', 're'], {'relay', 'resolve', 'result', 'retry'}),
        (['ops', 'retry', '--st'], {'--status'}),
        (['ops', 'retry', '--status', 'fa'], {'failed'}),
        (['ops', 'control', 'pa'], {'pause'}),
        (['migrate', '--fi'], {'--finish'}),
    ],
)
def test_bash_completes_commands_options_and_words(completion, typed, completed):
    words = ' '.join(f"'{word}'" for word in ('email-worker', *typed))
    asked = f"""
        . {completion}
        function=$(complete -p email-worker | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        COMP_WORDS=({words}) COMP_CWORD={len(typed)}
        $function
        echo "${{COMPREPLY[@]}}"
    """
    told = subprocess.run(['bash', '-c', asked], capture_output=True, text=True, check=True)
    assert set(told.stdout.split()) == completed


@pytest.fixture(scope='module')
def completion(tmp_path_factory):
    path = tmp_path_factory.mktemp('completion') / 'email-worker'
    path.write_text(completion_script('bash'))
    return path


@pytest.mark.parametrize('shell', ['zsh', 'fish'])
def test_other_shells_have_a_script_with_every_command(shell):
    script = completion_script(shell)
    for name in (*PROGRAMS, *COMMANDS, '--error-like' if shell == 'zsh' else 'error-like'):
        assert name in script


@pytest.mark.parametrize(
    ('words', 'meant'),
    [
        (['ops', 'retyr', '1'], 'retry'),
        (['ops', 'retry', '--sttaus', 'failed'], '--status'),
        (['ops', 'suppress', 'ad', 'x@example.com'], 'add'),
        (['ops', 'retry', '--status', 'faild'], 'failed'),
        (['migrate', '--finsh'], '--finish'),
        (['rnu'], 'run'),
        (['status'], 'email-worker ops status'),
    ],
)
def test_mistyped_word_is_told_with_what_was_meant(words, meant):
    told = ran(*words)
    assert (told.returncode, told.stdout) == (2, '')
    assert meant in told.stderr.splitlines()[-1]


def examples_of_operators():
    return [(name, example) for name, c in COMMANDS.items() for example in c.examples]


@pytest.mark.parametrize(('name', 'example'), examples_of_operators())
def test_example_of_the_help_is_understood(name, example):
    parser = make_parser()
    assert parser.parse_args([name, *shlex.split(example)]).command == name


def test_option_of_a_command_may_stand_before_it_but_not_behind_two_dashes():
    for words in (['--json', 'show', '1'], ['show', '--json', '1'], ['show', '1', '--json']):
        assert make_parser().parse_args(words).json
    given = make_parser().parse_args(['call', 'reports', '--', '--json'])
    assert (given.arguments, given.json) == (['--json'], False)


def test_every_secret_can_be_a_credential_of_the_unit_that_needs_it():
    units = [
        (ROOT / f'deploy/email-{name}.service').read_text() for name in ('worker', 'web', 'ingress')
    ]
    loaded = set(re.findall(r'^LoadCredential=([A-Z_]+):', '\n'.join(units), re.MULTILINE))
    secrets = {
        name.upper()
        for name, field in Settings.model_fields.items()
        if 'SecretStr' in str(field.annotation)
    }
    # `ops import-celery` alone reads the first; the others are commands that get a secret.
    assert secrets - loaded == {
        'CELERY_BROKER_URL', 'SMTP_OAUTH_TOKEN_COMMAND', 'SMTP_BACKUP_OAUTH_TOKEN_COMMAND',
    }  # fmt: skip
