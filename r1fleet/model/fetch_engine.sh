# The part of fetch.sh that works by the engine's own pull.

# The engine takes parts with a gap among their numbers, or an empty one, and then fails for ever.
drop_broken_parts() {
  partial=$models/blobs/sha256-$1-partial
  [ -e "$partial" ] || return 0
  count=0
  for part in "$partial"-*; do [ ! -e "$part" ] || count=$((count + 1)); done
  whole=yes n=0
  while [ $n -lt $count ]; do
    [ -s "$partial-$n" ] || whole=
    n=$((n + 1))
  done
  [ -n "$whole" ] && [ $count -gt 0 ] || rm -f "$partial" "$partial"-*
}

# The engine trusts a final blob by its name: what is not sound has to go before it looks.
clear_for_engine() {
  while read -r key hex size; do
    [ "$key" = blob ] || continue
    final=$models/blobs/sha256-$hex
    if [ -e "$final" ] && ! sound "$final" "$hex" "$size"; then rm -f "$final" && replaced=yes; fi
    [ -e "$final" ] || lacking=yes
    drop_broken_parts "$hex"
  done <"$job/job"
}

drop_parts() {
  while read -r key hex size; do
    [ "$key" != blob ] || rm -f "$models/blobs/sha256-$hex-partial"*
  done <"$job/job"
}

come_so_far() { status | sed -n 's/^done //p'; }

# One try of the engine's own pull. It waits for ever for a part that stalls, so it is ended when
# no byte comes during as many looks as there are tries. Sets $reason.
pull_once() {
  log=$run_dir/log
  # Not by `call`: what is ended below has to be curl itself.
  curl -sSN --noproxy '*' -d "{\"model\":\"$source\",\"insecure\":$insecure}" \
    "$engine/api/pull" >"$log" 2>"$run_dir/error" </dev/null &
  puller=$! still=0 seen=$(come_so_far)
  while kill -0 $puller 2>/dev/null; do
    sleep "${waits%% *}"
    still=$((still + 1))
    case $(tail -c 300 "$log" | tail -n 1) in *verifying*) still=0 ;; esac
    now=$(come_so_far)
    [ "$now" = "$seen" ] || still=0
    seen=$now
    [ $still -lt 60 ] || kill $puller
  done
  wait $puller || { reason="Ollama's pull ended: $(tail -n 1 "$run_dir/error")"; return 1; }
  # A failure after the first line comes as HTTP 200 too: only a last "success" is one.
  case $(tail -n 1 "$log") in *'"status":"success"'*) return 0 ;; esac
  reason="Ollama's pull: $(tail -n 1 "$log" | sed 's/.*"error":"\(.*\)".*/\1/')"
  return 1
}

pull() {
  rest=$waits
  until before=$(come_so_far); pull_once; do
    case $reason in
      *-partial*'no such file'* | *'digest mismatch'*) drop_parts ;;
      *'file does not exist'* | *'no space left'*) fail "$reason" ;;
    esac
    [ -n "$rest" ] || fail "$reason"
    sleep "${rest%% *}"
    case $rest in *' '*) rest=${rest#* } ;; *) rest= ;; esac
    [ "$(come_so_far)" -le "$before" ] || rest=$waits
  done
}

api() {
  lacking=
  clear_for_engine
  has_manifest || lacking=yes
  [ -n "$lacking" ] || return 0
  put downloading
  pull
  placed=1
  if [ "$source" != "$name" ]; then
    put installing
    call -f -d "{\"source\":\"$source\",\"destination\":\"$name\"}" "$engine/api/copy" ||
      fail "Ollama's copy: $(tail -n 1 "$run_dir/error")"
    call -f -X DELETE -d "{\"model\":\"$source\"}" "$engine/api/delete" ||
      fail "Ollama's delete: $(tail -n 1 "$run_dir/error")"
  fi
  has_manifest || fail "Ollama took sha256:${sum-}, the registry had said $digest"
  [ -z "$replaced" ] || unload
}
