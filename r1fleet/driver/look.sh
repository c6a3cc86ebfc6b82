# The driver's part of the probe: functions only, `section` is probe.sh's. What a host without an
# NVIDIA GPU is spared stands behind `gpu`; what costs a process is asked for only where it can
# matter.
# The shell's own may make two lines of one: names of processes and files are other people's.
echo() { printf '%s\n' "$*"; }
gpu=

# 30 s: it is slow without the persistence daemon, and hangs for good after some faults.
smi() {
  if command -v nvidia-smi >/dev/null; then timeout -k 2 30 nvidia-smi "$@"; else (exit 127); fi
  echo "rc=$?"
}

pci() {
  for d in /sys/bus/pci/devices/*; do
    read -r class <"$d/class" || continue
    case $class in 0x03* | 0x0680*) ;; *) continue ;; esac
    read -r vendor <"$d/vendor"; read -r device <"$d/device"
    case $class$vendor in 0x0300*0x10de | 0x0302*0x10de) gpu=1 ;;
      0x0680*0x10de) ;; 0x0680*) continue ;; esac
    read -r subvendor <"$d/subsystem_vendor"; read -r subdevice <"$d/subsystem_device"
    driver=-
    [ -L "$d/driver" ] && driver=$(cd -P "$d/driver" && echo "$PWD") # without a process
    echo "${d##*/} $class $vendor $device $subvendor $subdevice ${driver##*/}"
  done
}

gpus() {
  ask="--format=csv,noheader,nounits --query-gpu=$1"
  rows=$(smi $ask,$2)
  # A driver that lacks one field refuses them all.
  case $rows in *rc=2) rows=$(smi $ask) ;; esac
  echo "$rows"
  section compute
  case $rows in
    *rc=0) smi --query-compute-apps=pid,process_name,used_memory --format=csv,noheader,nounits ;;
    *) echo "rc=${rows##*rc=}" ;;
  esac
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
  for m in nvidia_uvm nvidia_drm nvidia_modeset nvidia_peermem nvidia; do
    [ -r /sys/module/$m/refcnt ] && read -r c </sys/module/$m/refcnt && echo "refs $m $c"
  done
  if command -v modinfo >/dev/null; then
    { modinfo nvidia || modinfo nvidia-current; } |
      while read -r k value; do case $k in
        version:) echo "disk $value" ;; license:) echo "license $value" ;; esac; done
  fi
  for l in /usr/lib/*/libnvidia-ml.so.[0-9]*.* /usr/lib64/libnvidia-ml.so.[0-9]*.*; do
    [ -e "$l" ] && echo "library ${l##*libnvidia-ml.so.}"
  done
  for i in /proc/driver/nvidia/capabilities/gpu*/mig/gi*; do
    [ -d "$i" ] && { timeout -k 2 30 nvidia-smi -L | sed 's/^/listed /'; break; }
  done
  # Where a host must be left alone matters without a GPU row, too.
  read -r r </proc/sys/kernel/osrelease
  case $r in *[Mm]icrosoft*) echo "mark wsl" ;; esac
  [ -e /etc/nv_tegra_release ] && echo "mark tegra"
  [ -n "$gpu" ] && { platform; holders; }
}

# Marks of hosts whose driver is someone else's, or that cannot take one.
platform() {
  while read -r path mark; do [ -e "$path" ] && echo "mark $mark"; done <<END
/etc/dgx-release dgx
/run/nvidia/driver gpu-operator
/run/ostree-booted ostree
/usr/sbin/transactional-update transactional
/usr/bin/nvidia-gridd vgpu-guest
/usr/bin/nvidia-vgpu-mgr vgpu-host
/etc/pve vgpu-host
/usr/bin/nvidia-uninstall runfile
/proc/driver/nvidia-nvswitch nvswitch
END
  [ -w /usr ] || echo "mark read-only"
  for f in /sys/bus/pci/devices/*/sriov_numvfs; do
    read -r n <"$f" && read -r v <"${f%/*}/vendor" && [ "$v" = 0x10de ] && [ "$n" -gt 0 ] &&
      echo "mark vgpu-host"
  done
  for f in /sys/class/infiniband/*/device/vpd; do
    [ -r "$f" ] && grep -q SW_MNG "$f" && echo "mark nvlsm"
  done
  secure_boot
  kernels
  df -Pk /usr /var /boot | while read -r _ _ _ free _ mount; do echo "free $mount $free"; done
  for s in /run/systemd/sessions/*; do session "$s"; done
  for s in /sys/fs/cgroup/system.slice/docker-*.scope /sys/fs/cgroup/kubepods.slice \
    /sys/fs/cgroup/machine.slice/*.scope; do [ -d "$s" ] && echo "work ${s##*/}"; done
  locks=/etc/dnf/plugins/versionlock.list
  [ -r $locks ] && sed -n '/nvidia\|kernel/s/^/locked /p' $locks
  [ -r /var/lib/r1fleet/driver.json ] && read -r v </var/lib/r1fleet/driver.json &&
    echo "record $v"
  [ -d /sys/module/nvidia ] && dmesg | sed -n '/NVRM: Xid/s/^/log /p
/NVRM: GPU .*\(requires use\|not supported\)/s/^/log /p'
}

secure_boot() {
  v=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
  if [ -r "$v" ]; then set -- $(od -An -tu1 -j4 -N1 "$v"); else set -- 0; fi
  [ -r /sys/module/module/parameters/sig_enforce ] &&
    read -r s </sys/module/module/parameters/sig_enforce && [ "$s" = Y ] && set -- 1
  [ "$1" = 1 ] || return
  echo "mark secure-boot"
  for k in /var/lib/dkms/mok.pub /var/lib/shim-signed/mok/MOK.der \
    /etc/pki/akmods/certs/public_key.der; do
    [ -r "$k" ] && mokutil --test-key "$k" | grep -q 'already enrolled' && echo "mark mok"
  done
}

# Headers of the running kernel, and the other installed kernels with whether they have a module.
kernels() {
  h=no
  if [ -e "/lib/modules/$r/build/Makefile" ]; then h=yes
  elif [ -n "$(ls /var/lib/apt/lists | grep -m 1 Packages)" ]; then
    [ -n "$(apt-cache show "linux-headers-$r")" ] && h=yes
  else h=unknown; fi
  echo "headers $h"
  [ -d /sys/module/nvidia ] && for k in /lib/modules/*/modules.dep; do
    [ -e "$k" ] || continue
    k=${k%/modules.dep}; k=${k##*/}
    [ "$k" = "$r" ] && continue
    if modinfo -k "$k" -n nvidia >/dev/null || modinfo -k "$k" -n nvidia-current >/dev/null
    then echo "kernel $k yes"; else echo "kernel $k no"; fi
  done
}

session() {
  user=; kind=
  while IFS='=' read -r k value; do
    case $k in USER) user=$value ;; TYPE) kind=$value ;; esac
  done <"$1"
  case $kind in x11 | wayland | mir) echo "session ${user:-unknown} $kind" ;; esac
}

# Processes that have a GPU open: "holder PID AGE USER UNIT NAME".
holders() {
  [ -d /sys/module/nvidia ] || [ -d /sys/module/nouveau ] || return
  last=; read -r up _ </proc/uptime; up=${up%%.*}
  find /proc/[0-9]*/fd -lname '/dev/nvidia*' | while read -r p; do
    p=${p#/proc/}; p=${p%%/*}
    [ "$p" = "$last" ] && continue
    last=$p; user=-; unit=-
    read -r stat <"/proc/$p/stat" || continue
    name=${stat#*\(}; name=${name%\)*}
    set -- ${stat##*\) }
    age=$((up - ${20} / 100)) # in ticks of 1/100 s on every architecture
    while read -r k id _; do [ "$k" = Uid: ] && user=$(id -nu "$id" || echo "$id"); done \
      <"/proc/$p/status"
    while IFS=: read -r _ c path; do
      case $c in '' | name=systemd) unit=${path##*/} ;; esac
    done <"/proc/$p/cgroup"
    echo "holder $p $age ${user:--} ${unit:--} $name"
  done
}

packages() {
  if command -v dpkg-query >/dev/null; then
    dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n' '*nvidia*' 'libcuda*' \
      'cuda-drivers*' libnvcuvid1 libnvoptix1 'linux-headers-*' 'linux-image-*' \
      cuda-keyring dkms aria2 zstd curl ca-certificates
  elif [ -n "$gpu" ] && command -v rpm >/dev/null; then
    rpm -qa --qf '%{NAME} %{VERSION}-%{RELEASE} ii\n' '*nvidia*' 'kernel-devel*' \
      kernel-headers dkms cuda-drivers
  fi
}
