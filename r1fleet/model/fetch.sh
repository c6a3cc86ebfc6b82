#!/bin/sh
# Fetches a model into Ollama's model directory; needs neither a running engine nor the laptop.
#   fetch JOB           by aria2c or curl: blobs, checked, then the manifest. Goes on where a
#                       former call stopped.
#   fetch JOB api       by Ollama's own pull
#   fetch JOB status    prints how far it is
# JOB is a folder with `job` (lines "key value", "blob HEX BYTES") and `manifest` (as served).
# Nothing is ever half-done in blobs/ or manifests/: files come by rename, the manifest last.
LC_ALL=C
export LC_ALL
set -u
umask 022
job=$1
run_dir=${R1_RUN:-/run/r1fleet-pull}
wait_s=${R1_WAIT_S:-2}
max_idle=5 # tries in a row that bring no new byte
limit=0
source=

while read -r key value; do
  case $key in
    models) models=$value ;;
    url) url=$value ;;         # .../v2/NAMESPACE/MODEL
    path) path=$value ;;       # of the manifest, below manifests/
    digest) digest=$value ;;
    limit) limit=$value ;;     # bytes per second, 0 = none
    name) name=$value ;;       # these are for `api`
    source) source=$value ;;
    insecure) insecure=$value ;;
    engine) engine=$value ;;
  esac
done 2>/dev/null <"$job/job"
stage=${models-}/.r1fleet-staging

put() { # put STATE [REASON]
  printf 'digest %s\nstate %s\nreason %s\n' "$digest" "$1" "${2-}" >"$run_dir/status.new"
  mv -f "$run_dir/status.new" "$run_dir/status"
}

fail() {
  echo "$1" >&2
  put failed "$1"
  exit 1
}

has_size() { [ -f "$1" ] && [ "$(stat -c %s "$1")" = "$2" ]; }

# Bytes that have come: blocks, because downloaders write sparse files in parts, but no more than
# the length, because filesystems allocate ahead.
come() {
  [ -f "$1" ] || { echo 0; return; }
  stat -c '%b %s' "$1" | {
    read -r blocks length
    blocks=$((blocks * 512))
    if [ $blocks -lt "$length" ]; then echo $blocks; else echo "$length"; fi
  }
}

status() {
  cat "$run_dir/status" 2>/dev/null
  [ -r "$job/job" ] || return 0
  total=0 got=0
  while read -r key hex size; do
    [ "$key" = blob ] || continue
    total=$((total + size))
    final=$models/blobs/sha256-$hex
    if has_size "$final" "$size"; then
      here=$size
    else
      here=$(($(come "$stage/$hex") + $(come "$final-partial")))
      [ $here -le "$size" ] || here=$size
    fi
    got=$((got + here))
  done <"$job/job"
  printf 'total %s\ndone %s\n' $total $got
}

# One try at $file from $blob_url. 100 = the disk does not take it.
download() {
  if [ -n "$aria2" ]; then
    aria2c --no-conf=true --dir="$stage" --out="$hex" --continue=true --file-allocation=none \
      --max-connection-per-server=8 --split=8 --min-split-size=16M --auto-save-interval=5 \
      --max-tries=2 --retry-wait=1 --connect-timeout=10 --timeout=30 --lowest-speed-limit=1K \
      --max-overall-download-limit="$limit" --auto-file-renaming=false --allow-overwrite=false \
      --summary-interval=0 --show-console-readout=false --console-log-level=error \
      --download-result=hide "$blob_url" </dev/null
    code=$?
    [ $code != 9 ] || code=100
  else
    curl -fsSL --proto '=http,https' -C - --limit-rate "$limit" --connect-timeout 10 \
      --speed-limit 1024 --speed-time 30 -o "$file" "$blob_url" </dev/null
    code=$?
    # 33: the server knows no ranges, so what is here cannot be continued.
    [ $code != 33 ] || rm -f "$file"
    [ $code != 23 ] || code=100
  fi
  return $code
}

mark() { stat -c '%b.%s' "$file" 2>/dev/null; }

# Why no byte comes. Sets $reason, and $final_answer when asking again is of no use.
ask_why() {
  final_answer=
  short=sha256:$(echo "$hex" | cut -c1-12)
  answer=$(curl -sSL -r 0-0 --connect-timeout 10 --max-time 15 -o /dev/null -w '%{http_code}' \
    "$blob_url" 2>"$run_dir/error" </dev/null)
  case $answer in
    000) reason="no answer from the registry for blob $short: $(tail -n 1 "$run_dir/error")" ;;
    2*) reason="the registry sends no more of blob $short than $(stat -c %s "$file") of $size bytes" ;;
    408 | 416 | 429) reason="registry answered $answer for blob $short" ;;
    4*) reason="registry answered $answer for blob $short" final_answer=yes ;;
    *) reason="registry answered $answer for blob $short" ;;
  esac
}

complete() { has_size "$file" "$size" && [ ! -e "$file.aria2" ]; }

download_whole() {
  idle=0
  until complete; do
    before=$(mark)
    download
    code=$?
    if [ $code = 100 ]; then
      fail "cannot write to $stage: $(df -Pk "$stage" | awk 'END { print $4 }') KiB are free there"
    fi
    if complete; then break; fi
    if [ -f "$file" ] && [ "$(stat -c %s "$file")" -gt "$size" ]; then
      rm -f "$file" "$file.aria2"
      fail "blob sha256:$hex is longer than the $size bytes its manifest says"
    fi
    if [ "$(mark)" = "$before" ]; then
      idle=$((idle + 1))
      ask_why
      [ -z "$final_answer" ] || fail "$reason"
      [ $idle -lt $max_idle ] || fail "$reason, $max_idle tries"
    else
      idle=0
    fi
    sleep "$wait_s"
  done
}

fetch_blob() {
  file=$stage/$hex
  blob_url=$url/blobs/sha256:$hex
  # aria2's map of a sparse file means nothing to curl.
  if [ -z "$aria2" ] && [ -e "$file.aria2" ]; then rm -f "$file" "$file.aria2"; fi
  if [ -f "$file" ] && [ "$(stat -c %s "$file")" -gt "$size" ]; then rm -f "$file" "$file.aria2"; fi
  resumed=
  [ ! -e "$file" ] || resumed=yes
  while :; do
    put downloading
    download_whole
    put checking
    sum=$(sha256sum <"$file")
    sum=${sum%% *}
    [ "$sum" != "$hex" ] || break
    rm -f "$file"
    [ -n "$resumed" ] || fail "blob sha256:$hex came as sha256:$sum"
    # What a power cut left may be damaged; what comes in one go may not.
    resumed=
  done
  sync "$file"
  mv -f "$file" "$models/blobs/sha256-$hex" || fail "cannot write to $models/blobs"
}

# What other jobs left behind would take the space that was counted as free.
drop_strays() {
  for file in "$stage"/*; do
    [ -e "$file" ] || continue
    hex=${file##*/}
    grep -q "^blob ${hex%.aria2} " "$job/job" || rm -rf "$file"
  done
}

install_manifest() {
  fresh=$stage/manifest
  cp "$job/manifest" "$fresh" || fail "cannot write to $stage"
  sum=$(sha256sum <"$fresh")
  [ "sha256:${sum%% *}" = "$digest" ] || fail "the manifest in $job is damaged"
  folder=$models/manifests/${path%/*}
  mkdir -p "$folder" || fail "cannot write to $models/manifests"
  sync "$fresh"
  mv -f "$fresh" "$models/manifests/$path" || fail "cannot write to $folder"
}

fetch() {
  aria2=$(command -v aria2c)
  mkdir -p "$models/blobs" "$models/manifests" || fail "cannot make $models"
  mkdir -p -m 700 "$stage" || fail "cannot make $stage"
  drop_strays
  while read -r key hex size; do
    [ "$key" = blob ] || continue
    has_size "$models/blobs/sha256-$hex" "$size" || fetch_blob
  done <"$job/job"
  put installing
  install_manifest
  rm -rf "$stage"
}

# A failure after the first line comes as HTTP 200 too: only a last "success" is one.
api() {
  put downloading
  log=$run_dir/log
  call() { curl -sS "$@" 2>"$run_dir/error" </dev/null; }
  call -N -d "{\"model\":\"$source\",\"insecure\":$insecure}" "$engine/api/pull" >"$log" ||
    fail "Ollama's pull ended: $(tail -n 1 "$run_dir/error")"
  case $(tail -n 1 "$log") in
    *'"status":"success"'*) ;;
    *) fail "Ollama's pull: $(tail -n 1 "$log" | sed 's/.*"error":"\(.*\)".*/\1/')" ;;
  esac
  if [ "$source" != "$name" ]; then
    put installing
    call -f -d "{\"source\":\"$source\",\"destination\":\"$name\"}" "$engine/api/copy" ||
      fail "Ollama's copy: $(tail -n 1 "$run_dir/error")"
    call -f -X DELETE -d "{\"model\":\"$source\"}" "$engine/api/delete" ||
      fail "Ollama's delete: $(tail -n 1 "$run_dir/error")"
  fi
  sum=$(sha256sum <"$models/manifests/$path")
  sum=sha256:${sum%% *}
  [ "$sum" = "$digest" ] || fail "Ollama took $sum, the registry had said $digest"
}

if [ "${2-}" = status ]; then
  status
  exit 0
fi
mkdir -p "$run_dir"
trap 'put stopped "it was stopped on the host"; exit 143' INT TERM
put starting
if [ "${2-}" = api ]; then api; else fetch; fi
total=$(status | grep -E '^(total|done) ')
put complete
echo "$total" >>"$run_dir/status"
