# Reads all a run needs to know of a host, changes nothing. Arguments come as variables:
# R1_MODELS (model directory), R1_URL (the engine), R1_FILES (managed files, by blanks).
# Sections start with "@@name"; everything is ASCII; it always ends with 0, because pyinfra
# counts a failing fact as a failing host.
LC_ALL=C
PATH=$PATH:/usr/local/bin:/usr/sbin:/sbin
export LC_ALL PATH

smi() {
  if command -v nvidia-smi >/dev/null; then timeout -k 5 60 nvidia-smi "$@"; else (exit 127); fi
  echo "rc=$?"
}

pci() {
  for d in /sys/bus/pci/devices/*; do
    read -r class <"$d/class" || continue
    case $class in 0x03*) ;; *) continue ;; esac
    read -r vendor <"$d/vendor"; read -r device <"$d/device"
    read -r subvendor <"$d/subsystem_vendor"; read -r subdevice <"$d/subsystem_device"
    driver=-
    [ -L "$d/driver" ] && driver=$(readlink "$d/driver")
    echo "${d##*/} $class $vendor $device $subvendor $subdevice ${driver##*/}"
  done
}

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

module() {
  v=-; f=-
  [ -r /sys/module/nvidia/version ] && read -r v </sys/module/nvidia/version
  echo "loaded $v"
  [ -r /proc/driver/nvidia/version ] && read -r f </proc/driver/nvidia/version
  echo "nvrm $f"
  for m in nouveau nova_core nvidia_uvm; do [ -d /sys/module/$m ] && echo "other $m"; done
  # The first process is as old as the boot.
  [ /etc/modprobe.d/r1fleet-nvidia.conf -ot /proc/1 ] && echo "blacklist before-boot"
  if command -v modinfo >/dev/null; then
    echo "disk $(modinfo -F version nvidia || modinfo -F version nvidia-current)"
  fi
  for l in /usr/lib/*/libnvidia-ml.so.[0-9]*.* /usr/lib64/libnvidia-ml.so.[0-9]*.*; do
    [ -e "$l" ] && echo "library ${l##*libnvidia-ml.so.}"
  done
  for i in /proc/driver/nvidia/capabilities/gpu*/mig/gi*; do
    [ -d "$i" ] && { timeout 60 nvidia-smi -L | sed 's/^/listed /'; break; }
  done
}

models() {
  [ -e "$R1_MODELS" ] && stat -L -c 'is %F|%U:%G|%a' "$R1_MODELS"
  d=$R1_MODELS
  while [ ! -d "$d" ]; do d=$(dirname "$d"); done
  df -Pk "$d" | { read -r _; read -r _ size _ free _ mount; echo "disk $size $free $mount"; }
  [ -d "$R1_MODELS/manifests" ] && find "$R1_MODELS/manifests" -type f -exec sha256sum {} + |
    sed 's/^/manifest /'
  [ -d "$R1_MODELS/blobs" ] && find "$R1_MODELS/blobs" -type f -exec stat -c 'blob %s %n' {} +
}

{
  echo "@@os"; cat /etc/os-release
  echo "@@machine"
  uname -r; uname -m; cat /proc/sys/kernel/random/boot_id; nproc; systemd-detect-virt
  echo "@@login"; id -u
  echo "@@memory"; grep -E '^(MemTotal|MemAvailable):' /proc/meminfo
  echo "@@pci"; pci
  echo "@@amd"; amd
  echo "@@module"; module
  echo "@@gpus"
  smi --query-gpu=index,name,uuid,pci.bus_id,driver_version,memory.total,memory.used,compute_cap \
    --format=csv,noheader,nounits
  echo "@@compute"; smi --query-compute-apps=pid,process_name,used_memory --format=csv,noheader,nounits
  echo "@@packages"
  dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n' 'nvidia-*' 'libnvidia-*' \
    'linux-headers-*' cuda-keyring dkms aria2 zstd curl ca-certificates
  echo "@@tools"; for t in aria2c zstd curl tar apt-get systemd-run update-initramfs; do
    command -v $t >/dev/null && echo $t; done
  echo "@@user"; id -nG ollama
  echo "@@units"
  systemctl show ollama.service r1fleet-preload.service r1fleet-pull.service -p Id,LoadState \
    -p ActiveState,SubState,Result,InvocationID,UnitFileState,NeedDaemonReload
  echo "@@engine"; [ -e /run/r1fleet/restart ] && echo "restart pending"; readlink /opt/ollama/current; echo "versions" /opt/ollama/*/
  echo "@@files"; sha256sum $R1_FILES
  echo "@@models"; models
  echo "@@api"; curl -s --noproxy '*' -m 5 -w '\n' "$R1_URL/api/version" "$R1_URL/api/ps"
  echo "@@state"; cat /var/lib/r1fleet/state.json
  echo; echo "@@end"
} 2>/dev/null | tr -cd '\11\12\40-\176'
exit 0
