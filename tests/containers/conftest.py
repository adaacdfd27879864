"""The image, built once, and an engine that runs it. `.ci/run` installs what that takes."""

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.containers.engine import ROOT, TOOLS, Builder, Engine


@pytest.fixture(scope='session')
def tools():
    TOOLS.install()
    return TOOLS


@pytest.fixture(scope='session')
def context(tmp_path_factory):
    """A checkout whose files nobody but its owner may read, with a secret that was left there."""
    place = tmp_path_factory.mktemp('checkout')
    listed = (ROOT / '.dockerignore').read_text().splitlines()
    for name in [line[1:] for line in listed if line.startswith('!')]:
        for source in ROOT.glob(name):
            target = place / source.relative_to(ROOT)
            target.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy(source, target)
    shutil.copy(ROOT / '.dockerignore', place)
    shutil.copy(ROOT / 'deploy/Dockerfile', place / 'deploy')
    for secret in ('.env', 'deploy/.env', 'secret.key'):
        (place / secret).write_text('PASSWORD=x\n')
    for path in place.rglob('*'):
        path.chmod(path.stat().st_mode & 0o700)
    return place


@pytest.fixture(scope='session')
def engine(tools, context):
    """An engine that has the image, and stand-ins for those of a registry."""
    place = Path(tempfile.mkdtemp(prefix='email-image-', dir='/var/tmp'))
    engine = Engine(place)
    try:
        with ThreadPoolExecutor() as beside:
            ready = beside.submit(engine.wait)
            builder = Builder(place)
            builder.make_base()
            archive = builder.build(context)
            ready.result()
        engine.docker('load', '--quiet', '--input', archive)
        archive.unlink()
        engine.build_stand_ins()
        yield engine
    finally:
        engine.stop()
