#!/bin/sh
# The power supply of one lab host: boots it, and boots it again after a reboot from inside.
# Usage: supervisor.sh HOST_DIR BASE COMMAND...     COMMAND is systemd-nspawn with its options
# It runs in the host's own control group and mount namespace: ending the processes of the group
# ends the host and its mounts.
set -u
dir=$1 base=$2
shift 2

# What systemd-nspawn notes about its machines goes away with this namespace, too.
mkdir -p /run/systemd/nspawn && mount -t tmpfs r1lab /run/systemd/nspawn || exit 1
mount -t overlay r1lab -o "lowerdir=$base,upperdir=$dir/upper,workdir=$dir/work" "$dir/root" || exit 1
while :; do
    # The kernel forgets: every boot starts from the hardware as it was made, nothing loaded.
    rm -rf "$dir/sim"
    cp -a "$dir/sim.pristine" "$dir/sim" || exit 1
    sh -c 'echo $$ >"$0"; exec "$@"' "$dir/nspawn.pid" "$@"
    # With --keep-unit, systemd-nspawn ends with 133 when the host wants to be booted again.
    [ $? -eq 133 ] || break
    # Faults of the lab: a reboot that takes its time, or never comes back.
    [ ! -e "$dir/reboot-never" ] || break
    [ ! -e "$dir/reboot-delay-s" ] || sleep "$(cat "$dir/reboot-delay-s")"
done
rm -f "$dir/nspawn.pid"
