#!/bin/bash
# A machine of its own: Debian's systemd as PID 1, over the programs of this machine. machine.py runs it as root in a mount
# namespace of its own:
#
#   unshare --mount boot.sh DIRECTORY NAME     prints the PID of the machine's PID 1; ends it when stdin ends
#
# Everything that the machine writes is in a tmpfs of that namespace, and gone with it. What it shares with this machine is
# the kernel: it may not set what the kernel has only once (sysctl, modules, clock, audit).
set -euo pipefail

# Of this machine it has the system's directories, and of these not what somebody else has put there.
SYSTEM=' bin boot dev etc lib lib32 lib64 libx32 proc run sbin sys usr var '
EMPTY=(var/tmp var/lib/apt/lists var/cache/apt var/backups var/log/journal var/lib/postgresql var/lib/redis etc/postgresql etc/systemd/system etc/credstore
    etc/email-worker usr/local/sbin usr/local/bin usr/local/lib/systemd)
MADE=(home mnt opt root srv tmp)
# What the postinst of their packages enables.
ENABLED=(postgresql redis-server)
FORBIDDEN=-sys_module,-sys_time,-sys_rawio,-sys_boot,-audit_control,-audit_read,-syslog,-wake_alarm

outside() { # DIRECTORY NAME
    local place=$1 name=$2 cgroups
    mount -t tmpfs -o mode=755 machine "$place"
    # A further mount would change the options of the one that is there.
    cgroups=$(findmnt --noheadings --types cgroup2 --output TARGET | head -n 1)
    if [ -z "$cgroups" ]; then
        cgroups=$place/cgroup
        mkdir "$cgroups"
        mount -t cgroup2 cgroup2 "$cgroups"
    fi
    for controller in memory pids cpu; do
        { echo "+$controller" >"$cgroups/cgroup.subtree_control"; } 2>/dev/null || true # not there: no limits
    done
    group=$cgroups/machine-$$
    mkdir "$group"
    trap 'find "$group" -depth -type d -exec rmdir {} +' EXIT
    (
        echo $BASHPID >"$group/cgroup.procs"
        exec unshare --pid --fork --kill-child --uts --ipc --net --cgroup --mount "$0" inside "$place" "$name" </dev/null
    ) &
    local parent=$! first=''
    while [ -z "$first" ] && [ -d /proc/$parent ]; do read -r first _ <"/proc/$parent/task/$parent/children" || true; done
    echo "$first"
    cat >/dev/null
    kill -KILL "$parent" 2>/dev/null || true
    wait "$parent" 2>/dev/null || true
    while [ -n "$(find "$group" -name cgroup.procs -exec cat {} +)" ]; do sleep 0.05; done
}

inside() { # DIRECTORY NAME
    cd "$1"
    local path device
    mkdir upper work root
    for path in $(ls -A /) "${EMPTY[@]}"; do
        case $SYSTEM in *" $path "*) continue ;; esac
        if [ -e "/$path" ]; then
            mkdir -p "upper/$(dirname "$path")"
            mknod "upper/$path" c 0 0 # overlayfs: nothing is here
        fi
    done
    mount -t overlay -o lowerdir=/,upperdir="$1/upper",workdir="$1/work" machine root
    for path in "${MADE[@]}" "${EMPTY[@]}"; do mkdir -p "root/$path"; done
    chmod 1777 root/tmp root/var/tmp
    chmod 700 root/root
    chown postgres: root/var/lib/postgresql root/etc/postgresql
    chown redis: root/var/lib/redis
    chmod 750 root/var/lib/redis

    mount -t proc proc root/proc
    mount --bind root/proc/sys root/proc/sys
    mount -o remount,bind,ro root/proc/sys
    mount -t sysfs -o ro sysfs root/sys
    mount -t cgroup2 cgroup2 root/sys/fs/cgroup
    mount -t tmpfs -o mode=755 dev root/dev
    for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
        IFS=: read -r path major minor <<<"$device"
        mknod -m 666 "root/dev/$path" c "$major" "$minor"
    done
    mkdir root/dev/pts root/dev/shm
    mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts root/dev/pts
    ln -s pts/ptmx root/dev/ptmx
    ln -s /proc/self/fd root/dev/fd
    mount -t tmpfs -o mode=1777 shm root/dev/shm
    mount -t tmpfs -o mode=755 run root/run

    echo "$2" >root/etc/hostname
    hostname "$2"
    printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$2" >root/etc/hosts
    tr -d - </proc/sys/kernel/random/uuid >root/etc/machine-id # an empty one would enable every unit there is
    : >root/etc/fstab
    rm -f root/etc/resolv.conf root/usr/sbin/policy-rc.d
    : >root/etc/resolv.conf
    systemctl --quiet --root=root enable "${ENABLED[@]}"

    cd root
    pivot_root . .
    umount --lazy .
    mount --make-rshared /
    exec setpriv --bounding-set="$FORBIDDEN" env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd
}

case $1 in
    inside) shift && inside "$@" ;;
    *) outside "$@" ;;
esac
