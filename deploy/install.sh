#!/usr/bin/env bash
# Install or update the worker on this machine: deploy/install.sh [--dry-run | --check | --uninstall [--purge]] [options]
#
#   --dry-run        say what would be done, change nothing
#   --check          say what is not as this source wants it; exit status 1 when anything is
#   --uninstall      stop the workers and the page, remove what was installed; settings and secrets stay
#   --purge          with --uninstall: settings, secrets and the user go too
#   --python PROGRAM the Python to build on, 3.11 or newer (python3)
#   --wheels DIR     packages from this directory instead of the network: pip download -r requirements.txt -d DIR
#   --venv DIR       a prepared virtual environment with requirements.txt installed, instead of a new one
#
# Running it again changes what differs and nothing else. Code goes to a release of its own, named after its content;
# `current` is switched in one step; running workers keep theirs until they are restarted (rolling-restart.sh). With
# DESTDIR everything goes below that directory, and neither systemd nor users are touched: for packages and for tests.
set -euo pipefail
umask 022 # whatever root's is: the service reads what is installed, and nobody else writes it

DESTDIR=${DESTDIR:-}
HOME_DIR=/opt/email-worker
ETC=/etc/email-worker
CREDSTORE=/etc/credstore
UNITS=/usr/local/lib/systemd/system
UNIT_NAMES=(email-worker.service email-worker@.service email-web.service email-ingress.service)
SYSUSERS=/usr/lib/sysusers.d/email-worker.conf
COMMAND=/usr/local/bin/email-worker
OLD_COMMAND=/usr/local/sbin/email-worker-run # its name up to 0.3
SERVICE_USER=email-worker
KEEP_RELEASES=3
# What runs in production, besides the modules at the top: not tests, bench and the development stack.
PARTS=(actions configuration db delivery engine fleet ingress jobs mail mail_outbox ops process reporting web deploy docs README.md CHANGELOG.md pyproject.toml requirements.txt .env.example)

mode=install purge='' python=python3 wheels='' venv='' differs=0
source_dir=$(cd "$(dirname "$0")/.." && pwd)

fail() { echo "install.sh: $*" >&2; exit 2; }
usage() { sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p}' "$0"; }
value() { [ $# -ge 2 ] && [ -n "$2" ] || fail "$1 needs a value"; printf '%s' "$2"; }

while [ $# -gt 0 ]; do
    case $1 in
        --dry-run | --check | --uninstall)
            [ "$mode" = install ] || fail "--$mode and $1 exclude each other"
            mode=${1#--} ;;
        --purge) purge=yes ;;
        --python) python=$(value "$@"); shift ;;
        --wheels) wheels=$(realpath -e "$(value "$@")") || fail "--wheels: no such directory"; shift ;;
        --venv) venv=$(realpath -e "$(value "$@")") || fail "--venv: no such directory"; shift ;;
        -h | --help) usage; exit 0 ;;
        *) fail "unknown option $1; see --help" ;;
    esac
    shift
done

case $DESTDIR in
    '') [ "$(id -u)" = 0 ] || [ "$mode" = dry-run ] || fail 'must run as root, or with DESTDIR=/some/directory' ;;
    /*) DESTDIR=${DESTDIR%/} ;;
    *) fail 'DESTDIR must be an absolute path' ;;
esac
[ -z "$purge" ] || [ "$mode" = uninstall ] || fail '--purge goes with --uninstall'

# Do something unless it is done: want WHAT TEST... -- ACTION...
want() {
    local what=$1 test=() status=0
    shift
    while [ "$1" != -- ]; do test+=("$1"); shift; done
    shift
    "${test[@]}" >/dev/null 2>&1 || status=$?
    [ "$status" != 0 ] || return 0
    differs=1
    case $mode in
        dry-run) echo "would: $what" ;;
        check) echo "not done: $what" ;;
        *) echo "$what"; "$@" ;;
    esac
}

is_live() { [ -z "$DESTDIR" ]; }
has_systemd() { is_live && [ -d /run/systemd/system ]; }
owns() { is_live && getent group "$SERVICE_USER" >/dev/null; } # may files be given to the service's group
same() { # SOURCE PATH MODE
    cmp -s "$1" "$2" && [ "$(stat -c %a "$2")" = "$3" ]
}
# Whether everybody may read what is below a directory, and only its owner write it. A link's own mode means nothing.
has_open_modes() { # PATH
    [ -z "$(find "$1" ! -type l \( -perm /022 -o ! -perm -444 -o -type d ! -perm -111 \) -print -quit)" ]
}
open_modes() { chmod -R u+rwX,go-w,go+rX "$1"; } # PATH
has_access() { # PATH MODE GROUP
    [ -e "$1" ] && [ "$(stat -c %a "$1")" = "$2" ] && { ! owns || [ "$(stat -c %G "$1")" = "$3" ]; }
}

give_access() { # PATH MODE GROUP
    chmod "$2" "$1"
    if owns; then chgrp "$3" "$1"; fi
}

make_directory() { # PATH MODE GROUP
    install -d -m "$2" "$1"
    give_access "$@"
}

copy() { # SOURCE PATH MODE
    install -D -m "$3" "$1" "$DESTDIR$2" && chmod "$3" "$DESTDIR$2"
}

list_parts() {
    local part
    cd "$source_dir"
    for part in *.py "${PARTS[@]}"; do
        [ ! -e "$part" ] || find "$part" \( -type f -o -type l \) ! -name '*.pyc'
    done | LC_ALL=C sort
}

# The same content has the same name, on every machine.
release_name() {
    local version hash
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source_dir/pyproject.toml")
    hash=$(cd "$source_dir" && list_parts | tr '\n' '\0' | xargs -0 sha256sum | sha256sum)
    printf '%s-%s' "$version" "${hash:0:12}"
}

check_python() {
    if [ -n "$venv" ]; then
        "$venv/bin/python" -c 'import arq, asyncpg' || fail "--venv: $venv has no requirements.txt installed"
        ! is_live || [ -z "$(find "$venv" ! -type l ! -perm -444 -print -quit)" ] ||
            fail "--venv: the service's user cannot read all of $venv: chmod -R go+rX $venv"
        return
    fi
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$python must be Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"
}

build_release() { # what an interrupted run left is made anew
    local place=$DESTDIR$HOME_DIR/releases/$release
    rm -rf "$place"
    install -d -m 755 "$place"
    list_parts | tar -C "$source_dir" -c --no-recursion --owner=0 --group=0 --mode=u=rwX,go=rX -T - |
        tar -C "$place" -x --no-same-owner -p
    find "$place" -type d -exec chmod 755 {} +
    if [ -n "$venv" ]; then
        ln -s "$venv" "$place/.venv"
    else
        "$python" -m venv "$place/.venv"
        "$place/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
            ${wheels:+--no-index --find-links "$wheels"} -r "$place/requirements.txt"
    fi
    # The service may not write its own bytecode.
    "$place/.venv/bin/python" -m compileall -q -x '/\.venv/' "$place"
    open_modes "$place"
    touch "$place/.complete"
}

switch_current() { # in one step: there is no moment without a release
    ln -sfn "releases/$release" "$DESTDIR$HOME_DIR/current.new"
    mv -T "$DESTDIR$HOME_DIR/current.new" "$DESTDIR$HOME_DIR/current"
}

is_current() { [ "$(readlink "$DESTDIR$HOME_DIR/current")" = "releases/$release" ]; }

# On the PATH is the command of whatever release is current.
is_command() { [ "$(readlink "$1")" = "$HOME_DIR/current/deploy/email-worker" ]; } # PATH
link_command() { # PATH
    install -d "$(dirname "$1")"
    ln -sfn "$HOME_DIR/current/deploy/email-worker" "$1"
}

is_used() { # by a process that still runs the code of this release
    [ -n "$(find /proc/[0-9]*/cwd -maxdepth 0 -lname "$(realpath "$1")" 2>/dev/null)" ]
}

old_releases() { # all but this one and the newest others, unless in use
    local place count=1
    [ -d "$DESTDIR$HOME_DIR/releases" ] || return 0
    find "$DESTDIR$HOME_DIR/releases" -mindepth 1 -maxdepth 1 -type d ! -name "$release" -printf '%T@ %p\n' |
        sort -rn | cut -d ' ' -f 2- | while IFS= read -r place; do
            count=$((count + 1))
            [ $count -le $KEEP_RELEASES ] || is_used "$place" || printf '%s\n' "$place"
        done
}

remove_old_releases() { old_releases | xargs -r -d '\n' rm -rf; }

user_exists() { getent passwd "$SERVICE_USER"; }

install_all() {
    check_python
    release=$(release_name)
    local root=$DESTDIR
    want "describe the user $SERVICE_USER in $SYSUSERS" \
        same "$source_dir/deploy/email-worker.sysusers" "$root$SYSUSERS" 644 \
        -- copy "$source_dir/deploy/email-worker.sysusers" "$SYSUSERS" 644
    if is_live; then
        want "create the user $SERVICE_USER" user_exists -- systemd-sysusers "$SYSUSERS"
    fi
    local directory
    for directory in "$HOME_DIR" "$HOME_DIR/releases"; do
        want "make $directory, for everybody to read" has_access "$root$directory" 755 root \
            -- make_directory "$root$directory" 755 root
    done
    want "make $ETC, for root and the service only" has_access "$root$ETC" 750 "$SERVICE_USER" \
        -- make_directory "$root$ETC" 750 "$SERVICE_USER"
    want "make $CREDSTORE, for root only" has_access "$root$CREDSTORE" 700 root -- make_directory "$root$CREDSTORE" 700 root
    want "write $ETC/env: edit it" test -e "$root$ETC/env" -- copy "$source_dir/.env.example" "$ETC/env" 640
    if [ -e "$root$ETC/env" ]; then
        want "let only root and the service read $ETC/env" has_access "$root$ETC/env" 640 "$SERVICE_USER" \
            -- give_access "$root$ETC/env" 640 "$SERVICE_USER"
    fi
    want "write $ETC/env.example, this version's settings" same "$source_dir/.env.example" "$root$ETC/env.example" 644 \
        -- copy "$source_dir/.env.example" "$ETC/env.example" 644
    want "build release $release" test -e "$root$HOME_DIR/releases/$release/.complete" -- build_release
    if [ -e "$root$HOME_DIR/releases/$release/.complete" ]; then
        want "let everybody read release $release, and only root write it" \
            has_open_modes "$root$HOME_DIR/releases/$release" -- open_modes "$root$HOME_DIR/releases/$release"
    fi
    want "switch $HOME_DIR/current to $release" is_current -- switch_current
    local link
    for link in "$COMMAND" "$OLD_COMMAND"; do
        want "install $link" is_command "$root$link" -- link_command "$root$link"
    done
    local unit text
    for unit in "${UNIT_NAMES[@]}"; do
        text=$source_dir/deploy/${unit/@/} # the template has the same text
        want "install $UNITS/$unit" same "$text" "$root$UNITS/$unit" 644 -- copy "$text" "$UNITS/$unit" 644
    done
    if [ "$mode-$differs" = install-1 ] && has_systemd; then systemctl daemon-reload; fi
    want 'remove old releases that nobody runs' test -z "$(old_releases)" -- remove_old_releases
}

next_steps() {
    cat <<EOF
Next, each of it again after an update (docs/deployment.md):
  \$EDITOR $ETC/env
  email-worker migrate
  systemctl enable --now email-worker email-web            the first time
  $HOME_DIR/current/deploy/rolling-restart.sh   after an update
EOF
}

uninstall() {
    if has_systemd; then
        systemctl disable "${UNIT_NAMES[@]}" 2>/dev/null || true
        systemctl stop email-web.service email-ingress.service 2>/dev/null || true
        systemctl stop email-worker.service 'email-worker@*.service' 2>/dev/null || true # each finishes its mail
    fi
    rm -rf "$DESTDIR$HOME_DIR" "$DESTDIR$ETC/env.example"
    rm -f "${UNIT_NAMES[@]/#/"$DESTDIR$UNITS/"}" "$DESTDIR$COMMAND" "$DESTDIR$OLD_COMMAND" "$DESTDIR$SYSUSERS"
    if has_systemd; then systemctl daemon-reload; fi
    if [ -n "$purge" ]; then
        rm -rf "$DESTDIR$ETC"
        rm -rf "$DESTDIR"/etc/systemd/system/email-{worker,worker@*,web,ingress}.service.d # systemctl edit
        rm -f "$DESTDIR$CREDSTORE"/email-worker.* "$DESTDIR$CREDSTORE"/email-web.* "$DESTDIR$CREDSTORE"/email-ingress.*
        if is_live && user_exists >/dev/null; then userdel "$SERVICE_USER"; fi
        echo 'uninstalled, with settings, secrets and user'
    else
        echo "uninstalled; $ETC and $CREDSTORE/email-*.* are left"
    fi
}

case $mode in
    uninstall) uninstall ;;
    *)
        install_all
        case $mode-$differs in
            *-0) echo "$release is installed, nothing to do" ;;
            install-1) next_steps ;;
            check-1) exit 1 ;;
        esac
        ;;
esac
