# Loads the model and asks it the smoke prompt, twice. Arguments come as variables: R1_URL,
# R1_LOAD, R1_CHAT, R1_STREAM (bodies, JSON), R1_LOAD_S, R1_ASK_S (limits in seconds), R1_SMI (empty
# where no nvidia-smi is to be asked), R1_DIGESTS (of the model, by "|").
# Sections start with "@@name"; a request's first line is "HTTP-CODE SECONDS". The whole goes out
# as base64: an answer may hold any bytes, and one bad one would cut pyinfra's reading short.
LC_ALL=C
PATH=$PATH:/usr/local/bin:/usr/sbin:/sbin
export LC_ALL PATH
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

ask() { # ask SECTION LIMIT_S PATH [BODY]
  echo "@@$1"
  : >"$dir/body"
  path=$3 limit=$2
  if [ $# -gt 3 ]; then printf '%s' "$4" >"$dir/ask"; set -- -d "@$dir/ask"; else set --; fi
  curl -sSN --noproxy '*' -m "$limit" -o "$dir/body" -w '%{http_code} %{time_total}\n' \
    -H 'Content-Type: application/json' "$@" "$R1_URL$path" 2>"$dir/error"
  cat "$dir/body" "$dir/error"
  echo
}

# The model is looked for while it answers: before its last word no request for another model can
# have it unloaded, and clients of the former one take turns with it. If it was missed all the same
# it is asked again.
look() { # look LIMIT_S
  rm -rf "$dir/busy"
  mkdir "$dir/busy"
  (
    dir=$dir/busy
    ask stream "$1" /v1/chat/completions "$R1_STREAM"
    : >"$dir/over"
  ) >"$dir/stream" &
  until [ -s "$dir/busy/body" ] || [ -e "$dir/busy/over" ]; do sleep 0.05; done
  ask ps 10 /api/ps >"$dir/ps"
  processes >"$dir/compute"
  wait
}

loaded() {
  look "$R1_ASK_S"
  cat "$dir/stream"
  tries=0 end=$(($(date +%s) + ${R1_LOAD_S%%.*}))
  until is_seen || [ $tries -ge 8 ] || [ "$(date +%s)" -gt $end ]; do
    tries=$((tries + 1))
    look "$R1_LOAD_S" # it may have to be loaded first
  done
  cat "$dir/ps" "$dir/compute"
}

has_smi() { [ -n "$R1_SMI" ] && command -v "$R1_SMI" >/dev/null; }

processes() {
  echo "@@compute"
  ! has_smi || timeout 60 "$R1_SMI" --query-compute-apps=pid,process_name,used_memory \
    --format=csv,noheader,nounits
}

is_seen() {
  grep -Eq "$R1_DIGESTS" "$dir/ps" || return 1
  ! has_smi || grep -Eq 'llama-server|/lib/ollama/' "$dir/compute"
}

{
  # How long the preload took: a model that is there already loads in no time.
  echo "@@preload"
  cat /run/r1fleet-preload/answer.json
  echo
  ask load "$R1_LOAD_S" /api/generate "$R1_LOAD"
  ask chat "$R1_ASK_S" /api/chat "$R1_CHAT"
  loaded
  # What the engine found at its start; GPUs are looked for once.
  echo "@@engine"
  journalctl -q --no-pager -o cat \
    "_SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value ollama.service)" |
    head -n 400 | grep 'msg="inference compute"'
  echo "@@end"
} 2>/dev/null | base64 -w0
