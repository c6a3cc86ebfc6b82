# The second part of the watch: what is wrong, whether requests run, one question, one repair.
add() { found="$found $1" text="${text:+$text; }$2"; }

is_sound() {
  [ -z "$quiet" ] && [ "$gpu_kind" != none ] && [ -z "$driver_fault" ] && [ "$seen" -ge "$gpus" ]
}

# Sets $found to the names of what is wrong, and $text to that in words.
judge() {
  found='' text='' planned=${model:-the model}
  [ -z "$quiet" ] || { found=$faults text=$what; return 0; }
  [ -z "$driver_fault" ] || add driver "$driver_fault"
  [ -n "$driver_fault" ] || [ "$seen" -ge "$gpus" ] || add gpus "$seen of $gpus GPUs are listed"
  [ "$xid_at" -gt "$now" ] || [ $((now - xid_at)) -gt 600 ] ||
    add xid "$xid_last in the kernel's log"
  judge_engine
  [ -z "$ask_failed" ] || add ask "$ask_failed"
  [ -z "$disk_free_kib" ] || [ $((disk_free_kib / 1024)) -ge "$disk_min_mib" ] ||
    add disk "$((disk_free_kib / 1024)) MiB are free for $models_dir"
  found=${found# }
}

judge_engine() {
  if [ -n "$loading" ] && [ $((now - starting)) -le "$load_limit_s" ]; then
    # What it will be is not known yet: what it was stands.
    for name in engine cpu spill model; do
      ! has "$faults" $name || add $name "was $name, is loading"
    done
    return
  fi
  case $engine in
    active) ;;
    activating | deactivating | reloading)
      add engine "ollama.service has been $engine for $((now - starting)) s"
      return ;;
    *)
      add engine "ollama.service is $engine"
      return ;;
  esac
  if [ -z "$answers" ]; then
    add engine "the engine does not answer at $url"
  elif [ -z "$loaded" ]; then
    [ -z "$for_ever" ] || [ -n "$others" ] || add model "$planned is not loaded"
  elif [ "$placement" != cpu ] && [ "$vram" -eq 0 ]; then
    add cpu "$planned is on the CPU"
  elif [ "$placement" = gpu ] && [ "$vram" -lt "$size" ]; then
    add spill "$((vram / 1048576)) of $((size / 1048576)) MiB of $planned are on the GPU"
  fi
}

# One look; what cannot tell is busy. Sets $ticks to the processor time of the engine's processes,
# and $at_work where a slot is seen at work.
is_busy() {
  ticks=0 servers=0 at_work=''
  for process in /proc/[0-9]*; do
    ours=''
    while IFS= read -r line; do
      case $line in */ollama.service | */ollama.service/*) ours=1 ;; esac
    done <"$process/cgroup"
    [ -n "$ours" ] && IFS= read -r stat <"$process/stat" || continue
    name=${stat#*\(} name=${name%\)*}
    set -- ${stat##*\) }
    ticks=$((ticks + ${12} + ${13}))
    case $name in llama-server*) ;; *) continue ;; esac
    servers=$((servers + 1))
    at=$(tr '\0' '\n' <"$process/cmdline" | sed -n '/^--port$/{n;p;q;}')
    case $(curl -s --noproxy '*' -m 5 "http://127.0.0.1:$at/slots") in
      *'"is_processing":true'* | *'"is_processing": true'*) at_work=1; return 0 ;;
      *'"is_processing"'*) ;;
      *) return 0 ;;
    esac
  done 2>/dev/null
  [ "$servers" -gt 0 ] || [ -z "$loaded$others" ] || return 0
  has_requests
}

# A connection on which a request came after the last answer, or on which an answer is going out. A
# gateway keeps idle ones open: there what was sent last came right after what was asked.
has_requests() {
  if ! lines=$(ss -HOtni state established "sport = :$port" 2>/dev/null); then
    where=$(printf ':%04X' "$port")
    ! cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
      grep -q "^ *[0-9]*: [0-9A-F]*$where [0-9A-F]*:[0-9A-F]* 01 " || return 0
    return 1
  fi
  while IFS= read -r line; do
    [ -n "$line" ] || continue
    sent_ms=0 came_ms=0 sent=0 came=''
    for word in $line; do
      case $word in
        lastsnd:*) sent_ms=${word#*:} ;;
        lastrcv:*) came_ms=${word#*:} ;;
        bytes_sent:*) sent=${word#*:} ;;
        bytes_received:*) came=1 ;;
      esac
    done
    # 25 bytes are "100 Continue", which is no answer.
    [ -z "$came" ] || [ "$sent" -gt 25 ] || return 0
    [ "$came_ms" -ge "$sent_ms" ] || return 0
    [ "$sent_ms" -ge 3000 ] || [ $((came_ms - sent_ms)) -le 500 ] || return 0
  done <<END
$lines
END
  return 1
}

# Two looks, between which the engine did no work either, as it does when it checks what it pulled.
is_idle() {
  ! is_busy || return 1
  earlier=$ticks
  sleep 2
  ! is_busy && [ $((ticks - earlier)) -lt 20 ]
}

# One token, only where the model is as planned and nobody waits for it. One that is to be unloaded
# after a while is not asked: each question would keep it for another while.
ask() {
  [ -n "$for_ever" ] || { ask_failed=''; return 0; }
  [ "$ask_every_s" -gt 0 ] && [ -n "$loaded" ] && [ -z "$held" ] || return 0
  ! has "$found" cpu && ! has "$found" spill || return 0
  after_s=$ask_every_s
  [ -z "$ask_failed" ] || [ "$after_s" -le 60 ] || after_s=60
  [ "$ask_at" -le "$now" ] || ask_at=0
  [ $((now - ask_at)) -ge "$after_s" ] || return 0
  # A slot at work is an answer as well: a host under load would never be asked again.
  ! is_busy || { [ -z "$at_work" ] || ask_failed=''; return 0; }
  ask_at=$now
  said=$(curl -s --noproxy '*' -m 60 -w '\n%{http_code} %{time_total}' \
    -H 'Content-Type: application/json' -d "${body%\}}, \"prompt\": \"Hi\", \"options\": \
{\"num_predict\": 1}}" "$url/api/generate" 2>/dev/null)
  last=${said##*"$line_end"}
  case $said in
    *'"done":true'*"$line_end"200' '*) ask_failed='' ask_s=${last#* } ;;
    *)
      ! is_busy || { ask_at=0; return 0; } # it may have waited behind somebody's request
      asks_failed=$((asks_failed + 1))
      ask_failed="$planned does not answer (HTTP ${last%% *})" ;;
  esac
  asks=$((asks + 1))
}

# Sets $limit to "soon" or "day" where no further repair is allowed now.
look_at_limit() {
  limit='' kept='' count=0 last=0
  for stamp in $repairs; do
    is_number "$stamp" || continue
    [ "$stamp" -le "$now" ] || stamp=$now # the clock was set back
    [ $((now - stamp)) -lt 86400 ] || continue
    kept="$kept $stamp" count=$((count + 1)) last=$stamp
  done
  repairs=${kept# }
  [ "$last" -eq 0 ] || [ $((now - last)) -ge "$repair_every_s" ] || limit=soon
  [ "$count" -lt "$repairs_per_day" ] || limit=day
}

repair() {
  has "$found" cpu && is_sound && [ -z "$held$limit" ] && is_idle || return 0
  # What has begun meanwhile comes first; a run of r1fleet cannot take the host while this is asked.
  if [ -e $run/lease.lock ]; then
    exec 9<$run/lease.lock
    flock -n 9 || { exec 9<&-; return 0; }
  fi
  tell_time
  look_at_units
  look_at_holds
  look_at_gpus
  # The looks above take seconds: whether requests run is the last question before the restart.
  [ -z "$held" ] && is_sound && ! is_busy || { exec 9<&-; judge; return 0; }
  repairs="${repairs:+$repairs }$now" repaired_at=$now
  # Without a memory there is no limit either.
  write_state || { exec 9<&-; return 0; }
  printf '%s\n' "<5>repairs: $text, and the GPU is sound: restarts the engine and loads the model"
  timeout -k 2 30 systemctl --no-block restart ollama.service
  exec 9<&-
  timeout -k 2 "$load_limit_s" systemctl start r1fleet-preload.service
  tell_time
  look
  # A run has taken the host meanwhile: what became of the repair is not known.
  [ -z "$quiet" ] || { look_at_limit; return 0; }
  if [ -n "$loaded" ] && ! has "$found" cpu; then
    mended=$((mended + 1)) did="mended in $((now - repaired_at)) s, "
  else
    unmended=$((unmended + 1)) did='a restart of the engine did not help, '
  fi
  look_at_limit
}

