"""What turns arq's tests into tests of our worker.

A pytest plug-in, loaded before them by `dev.arq_suite`.
"""

import os
import sys
from types import ModuleType
from typing import Self

import arq
import arq.worker
import pytest

from engine.dispatcher import Dispatcher

STARTS = "looks for arq's line at the start; ours is `worker.started` with its fields, by structlog"
MARKER = (
    'counts the keys; ours has one more, email-worker:marker, whose absence tells that Redis '
    'was emptied'
)
READ_LIMIT = (
    'ours reads as many jobs as there is room for: the limit is for workers that fight over '
    'the same ids'
)

# Every test of arq's that we do not pass, and why we need not.
LEFT_OUT = {
    'test_cli.py::test_run': STARTS,
    # By the line alone it finds the name of the job it did not run.
    'test_worker.py::test_max_bursts_sub_call': STARTS,
    'test_worker.py::test_set_health_check_key': MARKER,
    'test_worker.py::test_remain_keys': MARKER,
    'test_worker.py::test_remain_keys_no_results': MARKER,
    'test_worker.py::test_remain_keys_keep_results_forever_in_function': MARKER,
    'test_worker.py::test_remain_keys_keep_results_forever': MARKER,
    'test_worker.py::test_queue_read_limit_equals_max_jobs': READ_LIMIT,
    'test_worker.py::test_custom_queue_read_limit': READ_LIMIT,
}

STOCK = bool(os.environ.get('ARQ_TESTS_STOCK'))


class RedisContainer:
    """Stands in for testcontainers.redis: the server is there already, and needs no Docker."""

    port = int(os.environ['ARQ_TESTS_REDIS_PORT'])

    def __init__(self, image: str) -> None:
        """Take the image's name, and no notice of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_container_host_ip(self) -> str:
        """Say where the server is."""
        return '127.0.0.1'

    def get_exposed_port(self, port: int) -> int:
        """Say which port the server has."""
        return port


container_module = ModuleType('testcontainers.redis')
container_module.RedisContainer = RedisContainer  # type: ignore[attr-defined]
sys.modules['testcontainers'] = ModuleType('testcontainers')
sys.modules['testcontainers.redis'] = container_module

if not STOCK:  # before a test imports either name
    arq.worker.Worker = arq.Worker = Dispatcher  # type: ignore[misc]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Expect of each test that is left out that it fails.

    One that passes has no place in the table.
    """
    if STOCK:
        return
    found = {item.nodeid.removeprefix('tests/'): item for item in items}
    for name, reason in LEFT_OUT.items():
        if name in found:
            found[name].add_marker(pytest.mark.xfail(reason=reason, strict=True))
        elif config.args_source is not pytest.Config.ArgsSource.ARGS and not config.option.keyword:
            raise pytest.UsageError(f'left out, but arq has no such test: {name}')
