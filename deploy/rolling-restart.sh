#!/usr/bin/env bash
# Restart the workers of this machine one after the other; the next only when the last is ready (Type=notify). Each lets
# its running mail finish first, the others take over what is due: no mail is lost, none is sent twice. Last the web page,
# if it runs here: it has the workers' program and settings.
set -euo pipefail

running() {
    systemctl list-units --plain --no-legend --state=active,activating "$@" | awk '{ print $1 }'
}

mapfile -t units < <(running 'email-worker.service' 'email-worker@*.service'; running 'email-web.service' 'email-ingress.service')
[ ${#units[@]} -gt 0 ] || {
    echo 'rolling-restart.sh: neither a worker nor the web page runs; start one: systemctl enable --now email-worker' >&2
    exit 1
}

for unit in "${units[@]}"; do
    echo "restarting $unit"
    systemctl restart "$unit" || {
        echo "rolling-restart.sh: $unit did not become ready; the rest was left as it is. See: journalctl -u $unit -e" >&2
        exit 1
    }
done
