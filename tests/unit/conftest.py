"""Unit tests run on the event loop that the worker runs on."""

import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop
from arq.connections import ArqRedis
from arq.worker import func

from engine.dispatcher import Dispatcher
from engine.wire import deserialize, serialize
from tests.unit.fake_redis import FakeRedis, MakeWorker, echo

DEADLINE_S = 30.0


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    return {'uvloop': uvloop.new_event_loop}


@pytest.fixture
def free_port() -> Iterator[int]:
    """A loopback port where nobody listens, and nobody can while the test runs."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        yield taken.getsockname()[1]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / 'notify'))
        heard.settimeout(DEADLINE_S)
        monkeypatch.setenv('NOTIFY_SOCKET', str(tmp_path / 'notify'))
        yield heard


@pytest.fixture(params=[False, True], ids=['one by one', 'pipelined'])
def pipelining(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run the test with relays that offer PIPELINING (RFC 2920), and with such that do not."""
    monkeypatch.setattr('tests.unit.scripted_relay.ScriptedRelay.offers_pipelining', request.param)
    return bool(request.param)


@pytest.fixture
def fake() -> FakeRedis:
    return FakeRedis()


@pytest.fixture
def redis(fake: FakeRedis) -> ArqRedis:
    """A stock producer's client."""
    return fake.client()


@pytest.fixture
def make_worker(fake: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> MakeWorker:
    def make(*functions: Callable[..., Awaitable[Any]], **options: Any) -> Dispatcher:
        codecs = {'job_serializer': serialize, 'job_deserializer': deserialize}
        worker = Dispatcher(
            [
                func(function, name=function.__name__, max_tries=1000)
                for function in functions or (echo,)
            ],
            redis_pool=fake.client(**codecs),
            handle_signals=False,
            max_jobs=options.pop('max_jobs', 3),
            **codecs,
            **options,
        )
        monkeypatch.setattr(worker, '_retry_s', 0.0)  # no pause before the next look
        return worker

    return make
