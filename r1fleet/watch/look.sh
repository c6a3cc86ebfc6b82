#!/bin/sh
# Written by r1fleet. watch CONF: looks at the host once, tells what has changed since the last
# look, and repairs one thing: a model on the CPU while its GPU is sound (docs/monitoring).
# CONF holds shell assignments: url, port, models_dir, aliases, extras, placement, gpu_kind, gpus,
# for_ever, ask_every_s, disk_min_mib, repair_every_s, repairs_per_day, load_limit_s, textfile_dir,
# hook. What is remembered is written only when it differs from what was read.
LC_ALL=C
PATH=$PATH:/usr/local/bin:/usr/sbin:/sbin
export LC_ALL PATH
umask 022
run=/run/r1fleet
home=/var/lib/r1fleet
state=$home/watch/state
preload=/etc/r1fleet/preload.json
line_end='
'

. "$1" || exit 1

remember() {
  faults='' what='' since=0 told='' repairs='' mended=0 unmended=0 repaired_at=0
  asks=0 asks_failed=0 ask_at=0 ask_failed='' ask_s=0
  xid_boot='' xid_stamp=0 xid_app=0 xid_gpu=0 xid_at=0 xid_last=''
  hooks_failed=0 starting=0 before=''
  [ -r "$state" ] || return 0
  while IFS= read -r line; do
    before=$before$line$line_end
    value=${line#*=}
    case $line in
      faults=* | told=* | repairs=*) is_plain "$value" "a-z0-9 :" || continue ;;
      what=* | ask_failed=* | xid_last=* | xid_boot=*) ;;
      ask_s=*) is_plain "$value" "0-9." || continue ;;
      *) is_number "$value" || continue ;;
    esac
    case ${line%%=*} in
      faults) faults=$value ;; what) what=$value ;; since) since=$value ;; told) told=$value ;;
      repairs) repairs=$value ;; mended) mended=$value ;; unmended) unmended=$value ;;
      repaired_at) repaired_at=$value ;; asks) asks=$value ;; asks_failed) asks_failed=$value ;;
      ask_at) ask_at=$value ;; ask_failed) ask_failed=$value ;; ask_s) ask_s=$value ;;
      xid_boot) xid_boot=$value ;; xid_stamp) xid_stamp=$value ;; xid_app) xid_app=$value ;;
      xid_gpu) xid_gpu=$value ;; xid_at) xid_at=$value ;; xid_last) xid_last=$value ;;
      hooks_failed) hooks_failed=$value ;; starting) starting=$value ;;
    esac
  done <"$state"
}

write_state() {
  after="faults=$faults
what=$what
since=$since
told=$told
repairs=$repairs
mended=$mended
unmended=$unmended
repaired_at=$repaired_at
asks=$asks
asks_failed=$asks_failed
ask_at=$ask_at
ask_failed=$ask_failed
ask_s=$ask_s
xid_boot=$xid_boot
xid_stamp=$xid_stamp
xid_app=$xid_app
xid_gpu=$xid_gpu
xid_at=$xid_at
xid_last=$xid_last
hooks_failed=$hooks_failed
starting=$starting
"
  [ "$after" != "$before" ] || return 0
  printf '%s' "$after" >"$state.new" && mv -f "$state.new" "$state" && before=$after
}

is_number() { case $1 in '' | *[!0-9]* | ???????????????????*) return 1 ;; esac; }
is_plain() { case $1 in *[!$2]*) return 1 ;; esac; }
has() { case " $1 " in *" $2 "*) ;; *) return 1 ;; esac; }

# Sets `now` (seconds) and `clock` (YYYYMMDDhhmmss, UTC).
tell_time() {
  now=$(date -u '+%s %Y%m%d%H%M%S')
  clock=${now#* } now=${now%% *}
}

# Sets $engine to the unit's state, $loading where the model is being loaded, $work to a unit of a
# run of r1fleet that is at work: it installs, downloads or moves something.
look_at_units() {
  engine=unknown loading='' work='' id='' active=''
  units=$(timeout -k 2 20 systemctl show -p Id,ActiveState ollama.service 'r1fleet-*.service' \
    2>/dev/null)
  while IFS= read -r line; do
    case $line in
      Id=*) id=${line#*=} ;;
      ActiveState=*) active=${line#*=} ;;
    esac
    [ -n "$id" ] && [ -n "$active" ] || continue
    case $id:$active in
      ollama.service:*) engine=$active ;;
      r1fleet-preload.service:activating) loading=1 ;;
      r1fleet-watch*) ;;
      r1fleet-preload.service:* | r1fleet-gateway.service:* | r1fleet-mirror.service:*) ;;
      *:active | *:activating | *:deactivating | *:reloading) work=${id%.service} ;;
    esac
    id='' active=''
  done <<END
$units
END
}

# Sets $held to the reasons why nothing is repaired, by blanks, and $quiet where nothing is told
# either: somebody is at work on the host.
look_at_holds() {
  held='' quiet=''
  if [ -e $home/lease.json ]; then
    IFS= read -r line <$home/lease.json
    is_over "$line" || { held="$held lease" quiet=1; }
  fi
  [ -z "$work" ] || { held="$held work" quiet=1; }
  [ ! -e $home/maintenance ] || { held="$held maintenance" quiet=1; }
  for mark in $run/draining $run/refusing $home/draining; do
    [ ! -e $mark ] || { held="$held draining"; break; }
  done
  [ ! -e $run/restart ] || held="$held change"
  case $engine in activating | deactivating | reloading) loading=1 ;; esac
  if [ -n "$loading" ]; then
    held="$held loading"
    [ "$starting" -gt 0 ] && [ "$starting" -le "$now" ] || starting=$now
  else
    starting=0
  fi
  held=${held# }
}

# Whether the lease of this line has run out. One that cannot be read has not.
is_over() {
  until=${1##*'"until": "'}
  until=${until%%'"'*}
  set -f
  IFS='-T:+'
  set -- $until
  unset IFS
  set +f
  until="${1-}${2-}${3-}${4-}${5-}${6-}"
  is_number "$until" && [ ${#until} -eq 14 ] && [ "$until" -le "$clock" ]
}

# Sets $answers, $loaded (the name of our model's row), $size and $vram of it in bytes, and $others
# where clients have another one loaded.
look_at_engine() {
  answers='' loaded='' size=0 vram=0 others='' model='' row='' bytes=0
  if [ -r $preload ]; then
    IFS= read -r body <$preload
    model=${body#*'"model": "'}
    model=${model%%'"'*}
  fi
  answer=$(curl -s --noproxy '*' -m 5 -w '\n' "$url/api/version" "$url/api/ps" 2>/dev/null)
  case $answer in '{"version":'*'"models":'*) answers=1 ;; *) return 0 ;; esac
  set -f
  IFS=',{}[]'
  for word in $answer; do
    case $word in
      '"name":"'*) row=${word#*:\"} row=${row%\"} bytes=0 ;;
      '"size":'*) bytes=${word#*:} ;;
      '"size_vram":'*)
        is_number "$bytes" && is_number "${word#*:}" || continue
        case " $model $aliases " in
          *" $row "*) loaded=$row size=$bytes vram=${word#*:} ;;
          *) has "$extras" "$row" || others=$row ;;
        esac ;;
    esac
  done
  unset IFS
  set +f
}

# Sets $driver_fault to what is wrong with the driver, $seen to the GPUs that it lists. While
# somebody is at work on the host it is not touched: an open device keeps its module in the kernel.
look_at_gpus() {
  driver_fault='' seen=''
  [ -z "$quiet" ] || return 0
  seen=0
  case $gpu_kind in
    nvidia) look_at_nvidia ;;
    amd) [ -e /dev/kfd ] || driver_fault='there is no /dev/kfd' ;;
  esac
}

look_at_nvidia() {
  loaded_module='' library=''
  [ -r /sys/module/nvidia/version ] && IFS= read -r loaded_module </sys/module/nvidia/version
  for file in /usr/lib/*/libnvidia-ml.so.[0-9]*.* /usr/lib64/libnvidia-ml.so.[0-9]*.*; do
    [ ! -e "$file" ] || library=${file##*libnvidia-ml.so.}
  done
  if [ -z "$loaded_module" ]; then
    driver_fault='the module nvidia is not loaded'
  elif [ -n "$library" ] && [ "$library" != "$loaded_module" ]; then
    driver_fault="module $loaded_module is loaded, $library is installed"
  elif [ ! -e /dev/nvidia-uvm ]; then
    driver_fault='there is no /dev/nvidia-uvm'
  fi
  [ -z "$driver_fault" ] || return 0
  listed=$(timeout -k 2 20 nvidia-smi -L 2>/dev/null)
  code=$?
  while IFS= read -r line; do
    case $line in 'GPU '[0-9]*) seen=$((seen + 1)) ;; esac
  done <<END
$listed
END
  case $code in
    0) ;;
    124 | 137) driver_fault='nvidia-smi hangs' ;;
    6 | 15) [ "$seen" -lt "$gpus" ] || driver_fault='nvidia-smi reports a lost GPU' ;;
    *) driver_fault="nvidia-smi ended with $code" ;;
  esac
}

# Counts new Xids of the kernel's log: those of an application, and those of the GPU itself.
look_at_xids() {
  [ "$gpu_kind" = nvidia ] || return 0
  boot=''
  IFS= read -r boot </proc/sys/kernel/random/boot_id
  first=''
  if [ "$boot" != "$xid_boot" ]; then
    [ -n "$xid_boot" ] || first=1 # what was before there was a watch, a run has told
    xid_boot=$boot xid_stamp=0
  fi
  lines=$(dmesg 2>/dev/null | grep 'NVRM: Xid (')
  [ -n "$lines" ] || return 0
  newest=$xid_stamp
  while IFS= read -r line; do
    # [  123.456789] NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.
    stamp=${line%%]*} stamp=${stamp#[} stamp=${stamp##* }
    case $stamp in *.??????) stamp=${stamp%.*}${stamp#*.} ;; *) continue ;; esac
    is_number "$stamp" && [ "$stamp" -gt "$xid_stamp" ] || continue
    [ "$stamp" -le "$newest" ] || newest=$stamp
    [ -z "$first" ] || continue
    xid=${line#*'NVRM: Xid ('} place=${xid%%')'*}
    xid=${xid#*'): '} xid=${xid%%[!0-9]*}
    case $xid in
      13 | 31 | 43 | 45) xid_app=$((xid_app + 1)) ;;
      46 | 48 | 62 | 64 | 74 | 79 | 94 | 95 | 109 | 119 | 120 | 140)
        xid_gpu=$((xid_gpu + 1)) xid_at=$now xid_last="Xid $xid of $place" ;;
      *) xid_gpu=$((xid_gpu + 1)) ;;
    esac
  done <<END
$lines
END
  xid_stamp=$newest
}

# Sets $disk_size_kib and $disk_free_kib of the model directory.
look_at_disk() {
  disk=$(timeout -k 2 10 df -Pk "$models_dir" 2>/dev/null)
  set -- ${disk##*"$line_end"}
  disk_size_kib=${2-} disk_free_kib=${4-}
  is_number "$disk_size_kib" && is_number "$disk_free_kib" || disk_size_kib='' disk_free_kib=''
}

