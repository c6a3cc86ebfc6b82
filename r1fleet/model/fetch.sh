#!/bin/sh
# Fetches a model into Ollama's model directory; needs neither a running engine nor the laptop.
#   fetch JOB           by aria2c or curl: blobs, checked, then the manifest. Goes on where a
#                       former call stopped.
#   fetch JOB api       by Ollama's own pull
#   fetch JOB status    prints how far it is
# JOB is a folder with `job` (lines "key value", "blob HEX BYTES"), `manifest` (as served), and
# `sent-HEX` for a blob that came with the job.
# Nothing is ever half-done in blobs/ or manifests/: files come by rename, the manifest last, and
# only once all of them are here: the engine's start prunes what no manifest names.
# R1_AUTH in the environment is the registry's Authorization; curl and aria2c get it by their
# standard input, so that no process list shows it.
LC_ALL=C
export LC_ALL
set -u
umask 022
job=$1
run_dir=${R1_RUN:-/run/r1fleet-pull}
# Pauses after tries that bring no new byte; when they are used up it fails. A byte that comes
# begins them anew.
waits=${R1_WAITS:-2 4 8 15 30 30 30 30 30}
limit=0
source=
deep=
from=
placed=0
replaced=

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
    deep) deep=$value ;;       # yes: blobs that are there are checked by their sum, too
    from) from=$value ;;       # where a blob lies that is in no registry; `bundle`: all are sent
  esac
done 2>/dev/null <"$job/job"
stage=${models-}/.r1fleet-staging

put() { # put STATE [REASON]
  printf 'digest %s\nmodels %s\nstate %s\nreason %s\n' "$digest" "$models" "$1" "${2-}" \
    >"$run_dir/status.new"
  mv -f "$run_dir/status.new" "$run_dir/status"
}

fail() {
  echo "$1" >&2
  put failed "$1"
  exit 1
}

has_size() { [ -f "$1" ] && [ "$(stat -c %s "$1")" = "$2" ]; }

has_sum() {
  put checking
  sum=$(sha256sum <"$1")
  sum=${sum%% *}
  [ "$sum" = "$2" ]
}

# Whether a final blob is what it should be. Its size always tells; its sum costs reading it.
sound() { has_size "$1" "$3" && { [ "$deep" != yes ] || has_sum "$1" "$2"; }; }

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

ask() { # ask URL OPTION...: curl; no process list shows the login, nor a URL, which may be signed
  asked=$(printf '%s' "$1" | sed 's/[\\"]/\\&/g')
  shift
  { printf 'url = "%s"\n' "$asked"
    [ -z "$auth" ] || printf 'header = "Authorization: %s"\n' "$auth"; } | curl -g -K - "$@"
}

field() { printf '%s\n' "$challenge" | sed -n "s/.*$1=\"\([^\"]*\)\".*/\1/p"; }

# Sets $auth for a URL: the login itself, or the token that the registry gives for it. The login
# goes to no other server than the registry.
authorize() {
  auth=${R1_AUTH-}
  [ -n "$auth" ] || return 0
  challenge=$(ask "$1" -s -D - -o /dev/null -r 0-0 -m 30 | tr -d '\r' |
    sed -n 's/^[Ww][Ww][Ww]-[Aa]uthenticate: *[Bb]earer *//p')
  realm=$(field realm)
  host=${1#*://}
  case $realm in "${1%%://*}://${host%%/*}/"*) ;; *) return 0 ;; esac
  token=$(ask "$realm" -s -m 30 -G --data-urlencode "service=$(field service)" \
    --data-urlencode "scope=$(field scope)" |
    sed -n 's/.*"token" *: *"\([A-Za-z0-9._~+\/=-]*\)".*/\1/p')
  [ -z "$token" ] || auth="Bearer $token"
}

# One try at $file from $blob_url. 100 = the disk does not take it.
download() {
  authorize "$blob_url"
  place=$blob_url
  if [ -n "$auth" ]; then
    # The login is not for the server that the registry sends us to.
    elsewhere=$(ask "$blob_url" -s -o /dev/null -r 0-0 -m 30 -w '%{redirect_url}' | tr -d '\t')
    case $elsewhere in http://* | https://*) place=$elsewhere auth= ;; esac
  fi
  if [ -n "$aria2" ] && [ "${place#file:}" = "$place" ]; then
    { printf '%s\n  out=%s\n' "$place" "$hex"
      [ -z "$auth" ] || printf '  header=Authorization: %s\n' "$auth"; } |
      aria2c --no-conf=true --dir="$stage" --continue=true --file-allocation=none \
        --max-connection-per-server=8 --split=8 --min-split-size=16M --auto-save-interval=1 \
        --max-tries=2 --retry-wait=1 --connect-timeout=10 --timeout=30 --lowest-speed-limit=1K \
        --max-overall-download-limit="$limit" --auto-file-renaming=false --allow-overwrite=false \
        --follow-torrent=false --follow-metalink=false --download-result=hide \
        --summary-interval=0 --show-console-readout=false --console-log-level=error --input-file=-
    code=$?
    [ $code != 9 ] || code=100
  else
    ask "$place" -fsSL --proto "=http,https${from:+,file}" -C - --limit-rate "$limit" \
      --connect-timeout 10 --speed-limit 1024 --speed-time 30 -o "$file"
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
  answer=$(ask "$place" -sSL -r 0-0 --connect-timeout 10 --max-time 15 -o /dev/null \
    -w '%{http_code}' 2>"$run_dir/error")
  case $answer in
    000)
      reason="no answer from ${from:-the registry} for blob $short: $(tail -n 1 "$run_dir/error")"
      ;;
    2*) reason="the registry sends no more of blob $short than $(stat -c %s "$file") of $size bytes" ;;
    408 | 416 | 429) reason="registry answered $answer for blob $short" ;;
    4*) reason="registry answered $answer for blob $short" final_answer=yes ;;
    *) reason="registry answered $answer for blob $short" ;;
  esac
}

complete() { has_size "$file" "$size" && [ ! -e "$file.aria2" ]; }

download_whole() {
  idle=0 rest=$waits anew=
  until complete; do
    pause=${waits%% *}
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
      # The registry is well: then it is aria2's note of what came that is damaged, as by a full
      # disk. Once only: the blob may be shorter than its manifest says.
      case $answer$anew in
        2??) [ ! -e "$file.aria2" ] || { anew=yes; rm -f "$file" "$file.aria2"; } ;;
      esac
      [ -n "$rest" ] || fail "$reason, $idle tries"
      pause=${rest%% *}
      case $rest in *' '*) rest=${rest#* } ;; *) rest= ;; esac
    else
      idle=0 rest=$waits
    fi
    sleep "$pause"
  done
}

fetch_blob() {
  file=$stage/$hex
  [ ! -e "$job/sent-$hex" ] || cp "$job/sent-$hex" "$file" || fail "cannot write to $stage"
  [ ! -e "$models/.r1fleet-upload/$hex" ] || {
    mv -f "$models/.r1fleet-upload/$hex" "$file"
    rm -f "$file.aria2"
  }
  blob_url=${from:-$url/blobs/sha256:$hex}
  # aria2's map of a sparse file means nothing to curl.
  if [ -z "$aria2" ] && [ -e "$file.aria2" ]; then rm -f "$file" "$file.aria2"; fi
  if [ -f "$file" ] && [ "$(stat -c %s "$file")" -gt "$size" ]; then rm -f "$file" "$file.aria2"; fi
  resumed=
  [ ! -e "$file" ] || resumed=yes
  while :; do
    # The run sends it and begins anew.
    [ "$from" != bundle ] || complete || fail "not sent yet: $hex"
    put downloading
    download_whole
    ! has_sum "$file" "$hex" || break
    rm -f "$file"
    case $from in file:*) fail "the file's checksum is $sum, expected $hex" ;; esac
    [ -n "$resumed" ] || fail "blob sha256:$hex came as sha256:$sum"
    # What a power cut left may be damaged; what comes in one go may not.
    resumed=
  done
  sync "$file"
}

# The time of its last change spares a blob from the prune while no manifest names it yet.
place_blobs() {
  while read -r key hex size; do
    [ "$key" = blob ] && [ -f "$stage/$hex" ] || continue
    final=$models/blobs/sha256-$hex
    [ ! -e "$final" ] || replaced=yes
    touch "$stage/$hex"
    mv -f "$stage/$hex" "$final" || fail "cannot write to $models/blobs"
    placed=$((placed + 1))
  done <"$job/job"
}

# What other jobs left behind would take the space that was counted as free.
drop_strays() {
  for file in "$stage"/* "$models"/.r1fleet-upload/*; do
    [ -e "$file" ] || continue
    hex=${file##*/}
    grep -q "^blob ${hex%.aria2} " "$job/job" || rm -rf "$file"
  done
}

has_manifest() {
  [ -f "$models/manifests/$path" ] && has_sum "$models/manifests/$path" "${digest#sha256:}"
}

install_manifest() {
  if has_manifest; then return; fi
  fresh=$stage/manifest
  cp "$job/manifest" "$fresh" || fail "cannot write to $stage"
  sum=$(sha256sum <"$fresh")
  [ "sha256:${sum%% *}" = "$digest" ] || fail "the manifest in $job is damaged"
  folder=$models/manifests/${path%/*}
  mkdir -p "$folder" || fail "cannot write to $models/manifests"
  sync "$fresh"
  mv -f "$fresh" "$models/manifests/$path" || fail "cannot write to $folder"
  placed=$((placed + 1))
}

call() { curl -sS --noproxy '*' "$@" 2>"$run_dir/error" </dev/null; }

# What the engine has in memory came from the blob that was no good.
unload() {
  call -m 60 -o /dev/null -d "{\"model\":\"$name\",\"keep_alive\":0}" "$engine/api/generate"
}

make_folders() {
  mkdir -p "$models/blobs" "$models/manifests" || fail "cannot make $models"
  mkdir -p -m 700 "$stage" || fail "cannot make $stage"
  drop_strays
}

fetch() {
  aria2=$(command -v aria2c)
  make_folders
  while read -r key hex size; do
    [ "$key" = blob ] || continue
    sound "$models/blobs/sha256-$hex" "$hex" "$size" || fetch_blob
  done <"$job/job"
  put installing
  place_blobs
  install_manifest
  rm -rf "$stage"
  [ -z "$replaced" ] || unload
}
