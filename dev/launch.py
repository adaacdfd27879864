"""Become another program that dies with its parent.

`python launch.py PARENT_PID SIGNAL UID:GID|- PROGRAM ...`.

Runs as a plain script with the standard library only (`python -I -S`), then replaces itself by
PROGRAM, so the process id its parent knows is the server's own. It may have to read files below a
directory that the unprivileged user cannot enter (this very script, the interpreter), hence the
identity changes here and not in `subprocess`.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int, death_signal: int) -> None:
    """Ask the kernel for a signal when the parent's thread that started us ends.

    Linux only, a no-op elsewhere.
    """
    if sys.platform != 'linux':
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), 'prctl(PR_SET_PDEATHSIG) failed')
    if os.getppid() != parent_pid:  # it died before the line above
        sys.exit(1)


def drop_privileges(identity: str) -> None:
    """Become `UID:GID` without supplementary groups."""
    uid, gid = (int(part) for part in identity.split(':'))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def main(argv: list[str]) -> None:
    """Drop privileges, tie our life to the parent's, become the program."""
    parent_pid, death_signal, identity, program = int(argv[0]), int(argv[1]), argv[2], argv[3]
    if identity != '-':
        drop_privileges(identity)
    die_with_parent(parent_pid, death_signal)  # last: changing credentials clears it
    os.execv(program, argv[3:])  # noqa: S606 - this is what the script is for


if __name__ == '__main__':
    main(sys.argv[1:])
