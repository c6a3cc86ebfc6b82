# The last part of the watch: the journal, the hook, the metrics; and the order of it all.
# A line in the journal and a call of the hook for each change of what is wrong, and none else.
tell() {
  [ -z "$quiet" ] || return 0
  sign=${found:-none}
  if has "$found" cpu && is_sound && [ "$limit" = day ]; then
    sign="$sign limit"
    text="$text; no more repairs today, $repairs_per_day are the limit"
  fi
  faults=$found
  [ "$sign" != "$told" ] || return 0
  if [ -n "$found" ]; then
    printf '%s\n' "<4>failing: ${did-}$text"
    what=$text since=$now
    call_hook failing "${did-}$text"
  else
    text="${did-}${loaded:-$planned} is served as planned"
    printf '%s\n' "<5>well: $text"
    what='' since=$now
    [ -z "$told" ] || call_hook well "$text"
  fi
  told=$sign
}

# Under an account of its own that has no rights, and ended after a minute. It is waited for only
# until it runs, as of Type=exec: one that cannot be executed is counted.
call_hook() {
  [ -n "$hook" ] || return 0
  name=''
  IFS= read -r name </proc/sys/kernel/hostname
  timeout -k 2 20 systemd-run --quiet --collect --unit="r1fleet-watch-hook-$now-$$" \
    -p DynamicUser=yes -p RuntimeMaxSec=60 -p Type=exec -p SyslogIdentifier=r1fleet-watch-hook \
    --setenv=R1FLEET_HOST="$name" --setenv=R1FLEET_FAULTS="$found" \
    --setenv=R1FLEET_MODEL="$model" -- "$hook" "$1" "$2" 2>/dev/null ||
    hooks_failed=$((hooks_failed + 1))
}

metric() { out="$out# HELP r1fleet_$1 $3$line_end# TYPE r1fleet_$1 $2$line_end"; }
value() { out="${out}r1fleet_$1 $2$line_end"; }
one() { metric "$1" "$2" "$4"; value "$1" "$3"; }

write_metrics() {
  [ -n "$textfile_dir" ] && [ -d "$textfile_dir" ] || return 0
  out='' up=0
  [ -z "$answers" ] || up=1
  one watch_last_run_timestamp_seconds gauge "$now" "When the watch looked last."
  metric fault gauge "Whether this is wrong (1) or not (0)."
  for name in engine model cpu spill ask driver gpus xid disk; do
    if has "$found" $name; then value "fault{fault=\"$name\"}" 1
    else value "fault{fault=\"$name\"}" 0; fi
  done
  metric watch_held gauge "Whether this holds repairs back (1) or not (0)."
  for name in lease work maintenance draining change loading; do
    if has "$held" $name; then value "watch_held{reason=\"$name\"}" 1
    else value "watch_held{reason=\"$name\"}" 0; fi
  done
  one engine_up gauge $up "Whether the engine answers."
  if [ -n "$loaded" ]; then
    metric model_size_bytes gauge "Memory of the loaded model, in bytes."
    value "model_size_bytes{model=\"$model\"}" "$size"
    metric model_vram_bytes gauge "The part of it that is in VRAM, in bytes."
    value "model_vram_bytes{model=\"$model\"}" "$vram"
  fi
  [ -z "$seen" ] || one gpus gauge "$seen" "NVIDIA GPUs that nvidia-smi lists."
  one gpus_planned gauge "$gpus" "NVIDIA GPUs that the host was set up with."
  metric gpu_xids_total counter "Xids in the kernel's log, of an application or of the GPU itself."
  value 'gpu_xids_total{of="application"}' "$xid_app"
  value 'gpu_xids_total{of="gpu"}' "$xid_gpu"
  if [ -n "$disk_free_kib" ]; then
    one models_disk_size_bytes gauge $((disk_size_kib * 1024)) "Size of the model directory's disk."
    one models_disk_free_bytes gauge $((disk_free_kib * 1024)) "Free bytes there."
  fi
  one asks_total counter "$asks" "Requests for one token by which the watch tried the model."
  one ask_failures_total counter "$asks_failed" "Those that had no answer."
  [ -z "$ask_s" ] || one ask_duration_seconds gauge "$ask_s" "How long the last answer took."
  metric repairs_total counter "Restarts of the engine because its model was on the CPU."
  value 'repairs_total{result="mended"}' "$mended"
  value 'repairs_total{result="failed"}' "$unmended"
  one repair_last_timestamp_seconds gauge "$repaired_at" "When the last one began, 0: never."
  one hook_failures_total counter "$hooks_failed" "Calls of watch_hook that could not be begun."
  # The collector reads nothing that does not end in .prom.
  printf '%s' "$out" >"$textfile_dir/r1fleet.prom.new" &&
    mv -f "$textfile_dir/r1fleet.prom.new" "$textfile_dir/r1fleet.prom"
}

look() {
  look_at_units
  look_at_holds
  look_at_engine
  look_at_gpus
  [ -n "$quiet" ] || look_at_xids
  look_at_disk
  judge
}

remember
tell_time
look
ask
judge
look_at_limit
repair
tell
write_state
write_metrics
exit 0
