# Puts one version of Caddy beside the others. Variables: URL, SUMS_URL (the release's checksums,
# whose line decides where SHA512 is empty), SHA512, ROOT, KEY, STAGED (may be empty: a folder with
# what the URLs name, sent from a bundle and of no use later). Nothing half-done is ever live: work
# happens under a temporary name, then one rename.
set -eu
work=$ROOT/.new-$KEY
why() { echo "$1" >&2; exit 1; }
get() { curl -fsSL --retry 3 --retry-delay 2 --connect-timeout 15 --speed-limit 1000 --speed-time 60 "$@"; }

if [ ! -x "$ROOT/$KEY/caddy" ]; then
  for tool in curl tar gzip; do
    command -v $tool >/dev/null || why "the program $tool is missing"
  done
  install -d -m 755 "$ROOT"
  rm -rf "$work"
  install -d -m 755 "$work"
  trap 'rm -rf "$work"' EXIT
  name=${URL##*/}
  if [ -z "$SHA512" ]; then
    sums=$(get --proto-redir =https "$SUMS_URL") || why "no checksums at $SUMS_URL"
    SHA512=$(printf '%s\n' "$sums" | while read -r sum file; do
      if [ "${file#\*}" = "$name" ]; then echo "$sum"; fi; done)
    [ -n "$SHA512" ] || why "$SUMS_URL has no line for $name"
  fi
  get -o "$work/$name" "$URL" || why "download of $URL failed"
  found=$(sha512sum "$work/$name")
  found=${found%% *}
  [ "$found" = "$SHA512" ] || why "checksum of $name is $found, expected $SHA512"
  said=$(tar -xzf "$work/$name" -C "$work" --no-same-owner caddy 2>&1) ||
    why "unpacking $name: $(printf '%s\n' "$said" | head -n 1)"
  install -d -m 755 "$work/tree"
  install -m 755 "$work/caddy" "$work/tree/caddy"
  sync -f "$work"
  rm -rf "${ROOT:?}/$KEY"
  mv "$work/tree" "$ROOT/$KEY"
fi
[ -z "${STAGED-}" ] || { rm -rf "$STAGED"; rmdir "${STAGED%/*}" 2>/dev/null || :; }
