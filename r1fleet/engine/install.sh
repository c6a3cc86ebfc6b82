# Puts one version of the engine beside the others. Variables: URL, SHA256 (may be empty: the
# line of sha256sum.txt beside the archive decides), ROOT, KEY. Nothing half-done is ever live:
# work happens under a temporary name, then one rename.
set -eu
name=${URL##*/}
work=$ROOT/.new-$KEY
why() { echo "$1" >&2; exit 1; }
get() { curl -fsSL --retry 3 --retry-delay 2 --connect-timeout 15 --speed-limit 1000 --speed-time 60 "$@"; }

[ -x "$ROOT/$KEY/bin/ollama" ] && exit 0
for tool in curl tar zstd; do
  command -v $tool >/dev/null || why "the program $tool is missing"
done
install -d -m 755 "$ROOT"
rm -rf "$work"
install -d -m 755 "$work"
trap 'rm -rf "$work"' EXIT
if [ -z "$SHA256" ]; then
  sums=$(get "${URL%/*}/sha256sum.txt") || why "no sha256sum.txt beside $URL"
  SHA256=$(printf '%s\n' "$sums" | while read -r sum file; do
    [ "${file#\*}" = "./$name" ] && echo "$sum"; done)
  [ -n "$SHA256" ] || why "sha256sum.txt beside $URL has no line for $name"
fi
get -o "$work/$name" "$URL" || why "download of $URL failed"
found=$(sha256sum "$work/$name")
found=${found%% *}
[ "$found" = "$SHA256" ] || why "checksum of $name is $found, expected $SHA256"
install -d -m 755 "$work/tree"
# The archive is whole by its checksum; what can fail now is the disk. Told is the line that says
# so, else the first one.
said=$(zstd -dcq "$work/$name" | tar -x -C "$work/tree" --no-same-owner 2>&1) ||
  why "unpacking $name: $(printf '%s\n' "$said" | sed -n '1h;/No space/{p;q;};${x;p;}')"
[ -x "$work/tree/bin/ollama" ] || why "$name has no bin/ollama"
sync -f "$work"
rm -rf "${ROOT:?}/$KEY"
mv "$work/tree" "$ROOT/$KEY"
