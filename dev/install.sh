#!/bin/sh
# Make a virtual environment what a lock says: dev/install.sh PYTHON DIRECTORY LOCK. Says what it does, in short lines.
set -eu
python=$1 venv=$2 lock=$3
began=$(date +%s)

say() { printf '%3s s  %s\n' $(($(date +%s) - began)) "$*"; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
if ! [ -x "$venv/bin/python" ]; then
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
# uv installs five times as fast as pip, by several connections. Its own version and hashes are in the lock of development.
by_uv() {
    if ! [ -x "$venv/bin/uv" ]; then
        say 'installing uv, which installs the rest'
        sed -n '/^uv==/,/[^\\]$/p' requirements-dev.txt >"$venv/uv.txt"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$venv/uv.txt" || return 1
    fi
    rm -f "$venv/failed"
    say "installing $lock: $(grep -c '^[a-z]' "$lock") packages at most"
    if [ -t 1 ] && [ -t 2 ]; then # its own bars: how much, how fast
        "$venv/bin/uv" pip install --python "$venv/bin/python" --require-hashes --no-color -r "$lock"
        return
    fi
    { "$venv/bin/uv" pip install --python "$venv/bin/python" --require-hashes -r "$lock" 2>&1 || : >"$venv/failed"; } |
        while IFS= read -r line; do
            case $line in ' '*) ;; *) say "$line" ;; esac # not the name of each
        done
    ! [ -e "$venv/failed" ]
}

by_uv || {
    say 'uv could not: now pip, which knows mirrors of its own (pip.conf), and takes longer'
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
}
