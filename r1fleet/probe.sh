# Reads all a run needs to know of a host, changes nothing. Arguments come as variables:
# R1_MODELS (model directory), R1_URL (the engine), R1_FILES (managed files, by blanks),
# R1_PORT (its port, in hex), R1_GPU and R1_HEALTH (fields of nvidia-smi). driver/look.sh and
# adopt/look.sh come before it.
# Sections start with "@@name"; everything is ASCII; it always ends with 0, because pyinfra
# counts a failing fact as a failing host. A process costs about a millisecond of CPU here, and a
# second run is little else: what the shell can read, it reads itself.
LC_ALL=C
PATH=$PATH:/usr/local/bin:/usr/sbin:/sbin
export LC_ALL PATH
# A section begins by a word that nobody else knows: what others than root can have a hand in (model
# names, processes) may look like one. It stands in no process list.
read -r begin </proc/sys/kernel/random/uuid
section() { echo "$begin$1"; }

# "kfd" where ROCm's kernel driver serves, and AMD's cards with their VRAM in bytes.
amd() {
  [ -d /sys/module/amdgpu ] && [ -e /dev/kfd ] && echo kfd
  for d in /sys/class/drm/card*/device; do
    read -r vendor <"$d/vendor" || continue
    [ "$vendor" = 0x1002 ] || continue
    read -r device <"$d/device"; read -r bytes <"$d/mem_info_vram_total" || continue
    bdf=$(readlink -f "$d")
    echo "card ${bdf##*/} $device $bytes"
  done
}

models() {
  [ -e "$R1_MODELS" ] && stat -L -c 'is %F|%U:%G|%a' "$R1_MODELS"
  d=$R1_MODELS
  while [ ! -d "$d" ]; do d=$(dirname "$d"); done
  df -Pk "$d" | { read -r _; read -r _ size _ free _ mount; echo "disk $size $free $mount"; }
  [ -d "$R1_MODELS/manifests" ] && find "$R1_MODELS/manifests" -type f -exec sha256sum {} +
  [ -d "$R1_MODELS/blobs" ] && find "$R1_MODELS/blobs" -type f -printf 'blob %s %p\n'
}

# Whether it has a file or processes: systemd looks long for what is not there.
unit_is_there() {
  for f in /etc/systemd/system /run/systemd/system /run/systemd/transient /usr/lib/systemd/system \
    /lib/systemd/system /sys/fs/cgroup/system.slice /sys/fs/cgroup/systemd/system.slice
  do [ -e $f/$1 ] && return; done
  return 1
}

gateway() {
  [ -e /opt/r1fleet/gateway ] || [ -e /etc/r1fleet/gateway ] || return
  echo "current $(readlink /opt/r1fleet/gateway/current)"
  echo "versions" /opt/r1fleet/gateway/*/
  echo "pools" /etc/r1fleet/gateway/pools/*
  echo "pending $(cat /run/r1fleet/gateway-restart)"
  for f in /run/r1fleet/draining /run/r1fleet/refusing /var/lib/r1fleet/draining; do
    [ -e "$f" ] && echo drained; done
  sed 's/^/knows /' /etc/r1fleet/gateway/fleet.json
  sed 's/^/root /' /var/lib/r1fleet-gateway/caddy/pki/authorities/local/root.crt
}

{
  section os
  while IFS= read -r line || [ -n "$line" ]; do echo "$line"; done </etc/os-release
  section machine
  set -- $(uname -rm); read -r boot </proc/sys/kernel/random/boot_id
  echo "$1"; echo "$2"; echo "$boot"; nproc; systemd-detect-virt
  section login; if [ -O /proc/1 ]; then echo 0; else id -u; fi
  section memory; while read -r key value _; do case $key in
    MemTotal:) echo "$key $value" ;; MemAvailable:) echo "$key $value"; break ;; esac; done </proc/meminfo
  section pci; pci
  section amd; amd
  section module; module
  # Before the GPUs' processes: a model that is being loaded is in neither or in both.
  section api
  curl -s --noproxy '*' -m 5 -w '\n' "$R1_URL/api/version" "$R1_URL/api/ps"
  section gpus; gpus "$R1_GPU" "$R1_HEALTH"
  section packages; packages
  section tools; for t in aria2c zstd curl tar apt-get systemd-run update-initramfs nginx; do
    command -v $t >/dev/null && echo $t; done
  section user; id -nG ollama
  section units; set -- ollama.service
  for u in r1fleet-preload.service r1fleet-pull.service r1fleet-mirror.service \
    r1fleet-gateway.service nvidia-fabricmanager.service r1fleet-watch.timer r1fleet-watch.service
  do unit_is_there $u && set -- "$@" $u; done
  systemctl show "$@" \
    -p Id,LoadState,ActiveState,SubState,Result,InvocationID,UnitFileState,NeedDaemonReload
  section engine; [ -e /run/r1fleet/restart ] && echo "restart pending"
  [ -e /var/lib/r1fleet/bundle ] && echo "bundle sent"
  echo "here" /var/lib/r1fleet/*
  [ -e /var/lib/r1fleet/brought ] && while read -r kind name; do
    echo "brought $kind $name"; done </var/lib/r1fleet/brought
  [ -e /etc/r1fleet/mirror.conf ] && while read -r word network _; do
    [ "$word" != allow ] || echo "allows $network"; done </etc/r1fleet/mirror.conf
  [ -e /run/r1fleet/mirror-restart ] && echo "mirror restart pending"
  readlink /opt/ollama/current; echo "versions" /opt/ollama/*/
  echo "served" /var/lib/r1fleet/served/*/
  # What the watch found, by its own words; it is there before anybody asks.
  [ -r /var/lib/r1fleet/watch/state ] && while read -r line; do
    case $line in faults=* | what=* | since=* | repairs=*) echo "watch $line" ;; esac
  done </var/lib/r1fleet/watch/state
  # But for the one of ours, what is in there a person has put there.
  for f in /etc/systemd/system*/ollama.service.d/*.conf /run/systemd/system*/ollama.service.d/*.conf
  do case $f in */10-r1fleet-hardening.conf) ;; *) [ -e "$f" ] && echo "dropin $f" ;; esac; done
  section holders; existing
  section gateway; gateway
  section files; sha256sum $R1_FILES
  section models; models
  section state; cat /var/lib/r1fleet/state.json
  echo
  section lease; [ -e /var/lib/r1fleet/lease.json ] && {
    read -r lease </var/lib/r1fleet/lease.json; printf '%s\n' "$lease"
    date -u +%Y-%m-%dT%H:%M:%S+00:00; }
  section end
} 2>/dev/null | sed -f /dev/fd/3 3<<END
s/[^	 -~]//g
s/^@@/ @@/
s/^$begin/@@/
END
exit 0
