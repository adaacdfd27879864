"""docs/ingress.md: its start is carried out as it stands, its table has what is replied."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess

from dev.ports import free_port
from ingress import commands, door, incoming, session
from settings import Settings
from tests.conftest import ROOT, wait_until

DOCUMENT = (ROOT / 'docs/ingress.md').read_text()
START = re.findall(r'```sh\n(.*?)```', DOCUMENT, re.DOTALL)[0]


async def test_start_sends_a_message(env, tmp_path, start_worker, inbox):
    await start_worker().started()
    port = str(free_port())
    script = START.replace('2525', port).replace('/tmp/hello.eml', str(tmp_path / 'hello.eml'))
    assert script != START
    process = await asyncio.create_subprocess_exec(
        'bash', '-e', '-c', script,
        cwd=ROOT, env=env | {'INGRESS_PORT': port}, start_new_session=True,
        stdout=(tmp_path / 'out').open('wb'), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert await process.wait() == 0, (tmp_path / 'out').read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    (entry,) = await wait_until(lambda: inbox.accepted('anna@example.com'))
    assert b'\r\n\r\nBy SMTP.\r\n' in inbox.message(entry)
    assert 'ingress.accepted' in (tmp_path / 'out').read_text()


def test_every_reply_of_ours_is_in_the_table():
    replies = [
        text
        for module in (commands, door, incoming, session)
        for name, text in vars(module).items()
        if name.isupper() and isinstance(text, str) and re.match(r'\d{3} ', text)
    ]
    assert len(replies) > 8
    told = set(re.findall(r'`(\d{3})', DOCUMENT))
    assert {reply[:3] for reply in replies} - told == set()


def test_every_setting_it_names_is_there_and_its_port_is_the_default():
    named = set(re.findall(r'\bINGRESS_\w+', DOCUMENT))
    assert named
    assert {name for name in named if name.lower() not in Settings.model_fields} == set()
    assert f'127.0.0.1:{Settings.model_fields["ingress_port"].default}' in DOCUMENT
