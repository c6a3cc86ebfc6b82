# Takes what a former model directory holds along to another one. Variables: OLD, NEW, UNIT (that
# fetches), USER (of the service). The engine may go on serving from OLD meanwhile: nothing there
# is changed. On one filesystem files get a second name, by hard links; else they are copied and
# checked. Every file comes by rename, the manifests last; it can be done again at any time.
set -u
systemctl stop "$UNIT" 2>/dev/null
why() { echo "$1" >&2; exit 1; }
[ -d "$OLD/blobs" ] || exit 0
for folder in "$NEW" "$NEW/blobs"; do
  [ ! -L "$folder" ] || why "$folder is a link"
done

# Not as root: both folders belong to the service user, who could plant links in them.
as_user() { setpriv --reuid="$USER" --regid="$USER" --clear-groups "$@"; }

if [ "$(stat -c %d "$OLD/blobs")" = "$(stat -c %d "$NEW")" ]; then how=link; else how=copy; fi
if [ $how = copy ]; then
  # What is there already from a former try needs no room.
  need=0
  for file in "$OLD"/blobs/*; do
    [ -f "$file" ] && [ ! -e "$NEW/blobs/${file##*/}" ] || continue
    need=$((need + $(stat -c %s "$file") / 1024))
  done
  free=$(df -Pk "$NEW" | awk 'END { print $4 }')
  size=$(df -Pk "$NEW" | awk 'END { print $2 }')
  reserve=$((size / 20))
  [ $reserve -lt 1048576 ] || reserve=1048576
  [ $((need + reserve)) -le "$free" ] ||
    why "$OLD holds $need KiB, $NEW has $free KiB free and $reserve must stay so"
fi

export OLD NEW how
as_user sh -s <<'END' || exit 1
set -u
umask 022
why() { echo "$1" >&2; exit 1; }
mkdir -p "$NEW/blobs" "$NEW/manifests" || why "cannot write to $NEW"

take() { # take FROM TO: whole, by one rename
  [ ! -e "$2" ] || [ "$(stat -c %s "$1")" != "$(stat -c %s "$2")" ] || return 0
  rm -f "$2.new"
  if [ $how = link ] && ln "$1" "$2.new" 2>/dev/null; then
    mv -f "$2.new" "$2" || why "cannot write to $2"
    return
  fi
  cp "$1" "$2.new" || { rm -f "$2.new"; why "cannot copy $1"; }
  case $1 in
    */blobs/sha256-????????*-partial*) ;;
    */blobs/sha256-*)
      sum=$(sha256sum <"$2.new")
      # What was broken before is left behind, and comes anew.
      if [ "sha256-${sum%% *}" != "${1##*/}" ]; then rm -f "$2.new"; return; fi ;;
  esac
  sync "$2.new"
  mv -f "$2.new" "$2" || why "cannot write to $2"
}

for file in "$OLD"/blobs/*; do
  [ ! -f "$file" ] || take "$file" "$NEW/blobs/${file##*/}"
done
if [ -d "$OLD/.r1fleet-staging" ] && [ $how = link ]; then
  mkdir -p -m 700 "$NEW/.r1fleet-staging"
  for file in "$OLD"/.r1fleet-staging/*; do
    [ ! -f "$file" ] || take "$file" "$NEW/.r1fleet-staging/${file##*/}"
  done
fi
cd "$OLD/manifests" || exit 0
find . -type f | while read -r file; do
  mkdir -p "$NEW/manifests/${file%/*}" || exit 1
  # Always a copy of its own: names move by changing these files.
  [ -e "$NEW/manifests/$file" ] ||
    { cp "$file" "$NEW/.manifest.new" && mv -f "$NEW/.manifest.new" "$NEW/manifests/$file"; } ||
    exit 1
done || why "cannot write to $NEW/manifests"
END
