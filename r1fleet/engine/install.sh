# Puts one version of the engine beside the others. Variables: URL, SHA256 (may be empty: the
# line of sha256sum.txt beside the archive decides), ROCM_URL (may be empty: a second archive, laid
# over the first), MIRROR and SOURCE (what the URLs begin with at a mirror and at its source; where
# there is no way to the source, SOURCE is empty), ROOT, KEY, STAGED (may be empty: a folder with
# what the URLs name, sent from a bundle and of no use later). Nothing half-done is ever live: work
# happens under a temporary name, then one rename.
set -eu
work=$ROOT/.new-$KEY
why() { echo "$1" >&2; exit 1; }
get() { curl -fsSL --retry 3 --retry-delay 2 --connect-timeout 15 --speed-limit 1000 --speed-time 60 "$@"; }

sent_is_used() { [ -z "${STAGED-}" ] || { rm -rf "$STAGED"; rmdir "${STAGED%/*}" 2>/dev/null || :; }; }

if [ -x "$ROOT/$KEY/bin/ollama" ]; then sent_is_used; exit 0; fi
for tool in curl tar zstd; do
  command -v $tool >/dev/null || why "the program $tool is missing"
done
install -d -m 755 "$ROOT"
rm -rf "$work"
install -d -m 755 "$work"
trap 'rm -rf "$work"' EXIT
install -d -m 755 "$work/tree"

# fetch URL SHA256: leaves it whole as $work/$name, or says in $said why not.
fetch() {
  name=${1##*/} wanted=$2
  if [ -z "$wanted" ]; then
    # A mirror that speaks plain HTTP can give the archive, not what it is held against.
    at=$1
    case $1 in http://*) [ -z "${MIRROR-}" ] || at=${SOURCE:+$SOURCE${1#"$MIRROR"}} ;; esac
    said="$1 comes by plain http and its checksum would too; set engine_sha256"
    [ -n "$at" ] || return 1
    sums=$(get --proto-redir =https "${at%/*}/sha256sum.txt") || { said="no sha256sum.txt beside $at"; return 1; }
    wanted=$(printf '%s\n' "$sums" | while read -r sum file; do
      if [ "${file#\*}" = "./$name" ]; then echo "$sum"; fi; done)
    said="sha256sum.txt beside $1 has no line for $name"
    [ -n "$wanted" ] || return 1
  fi
  get -o "$work/$name" "$1" || { said="download of $1 failed"; return 1; }
  found=$(sha256sum "$work/$name")
  found=${found%% *}
  said="checksum of $name is $found, expected $wanted"
  [ "$found" = "$wanted" ]
}

unpack() { # unpack URL SHA256
  fetch "$1" "$2" || {
    [ -n "${SOURCE-}" ] || why "$said"
    echo "$said; goes to the source" >&2
    fetch "$SOURCE${1#"$MIRROR"}" "$2" || why "$said"
  }
  # The archive is whole by its checksum; what can fail now is the disk. Told is the line that says
  # so, else the first one.
  said=$(zstd -dcq "$work/$name" | tar -x -C "$work/tree" --no-same-owner 2>&1) ||
    why "unpacking $name: $(printf '%s\n' "$said" | sed -n '1h;/No space/{p;q;};${x;p;}')"
  rm -f "$work/$name"
}

unpack "$URL" "$SHA256"
[ -x "$work/tree/bin/ollama" ] || why "$name has no bin/ollama"
[ -z "$ROCM_URL" ] || unpack "$ROCM_URL" ""
sync -f "$work"
rm -rf "${ROOT:?}/$KEY"
mv "$work/tree" "$ROOT/$KEY"
sent_is_used
