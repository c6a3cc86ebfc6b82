# Takes models along from the model directory of an Ollama that is there. Variables: OLD, NEW, OWNER
# (of the files in OLD, a user id or name), USER (of the service). That Ollama may go on serving
# meanwhile: nothing of OLD but the owner of its blobs is changed. On one filesystem blobs get a second name
# and no byte is written, where both can read them afterwards; else they are copied and checked. It
# can be done again at any time.
#
# Neither folder is root's: no path below them is followed as root, but for a folder that is entered
# once. What is read is read as its owner, what is written is written as the service user.
set -u
why() { echo "$1" >&2; exit 1; }
as_owner() { setpriv --reuid="$OWNER" --regid="$OWNER" --clear-groups "$@"; }
as_user() { setpriv --reuid="$USER" --regid="$USER" --clear-groups "$@"; }
cd "$OLD/blobs" || exit 0
[ ! . -ef "$NEW/blobs" ] || exit 0
blobs() { # whole ones
  find . -maxdepth 1 -type f -name 'sha256-*' ! -name '*[!-a-z0-9]*' |
    sed -n 's|^\./\(sha256-[0-9a-f]\{64\}\)$|\1|p'
}
as_user mkdir -p "$NEW/blobs" "$NEW/manifests" || why "cannot write to $NEW"
guarded=$(cat /proc/sys/fs/protected_hardlinks) # else a person could have others' files given away
how=copy
[ "$(stat -c %d .)" != "$(stat -c %d "$NEW/blobs")" ] || [ "$guarded" != 1 ] ||
  ! as_user sh -c '[ -x . ]' || how=link
# Who gives a file away must still be able to read it; an earlier try may have done so.
linked() {
  [ $how = link ] &&
    [ -n "$(find "./$1" \( -user "$USER" -o -user "$OWNER" -perm -004 \) 2>/dev/null)" ]
}
# Of a pipe only the end would be seen to fail.
readable() { as_owner sh -c '[ -r "$1" ]' sh "$1" </dev/null || why "user $OWNER cannot read $OLD/$2/$1"; }

lacking() { blobs | while read -r b; do
  [ "$(stat -c %s "$b")" = "$(stat -c %s "$NEW/blobs/$b" 2>/dev/null)" ] || echo "$b"; done; }
todo=$(lacking)
need=0
for b in $todo; do linked "$b" || need=$((need + $(stat -c %s "$b" || echo 0) / 1024 + 1)); done
if [ $need != 0 ]; then
  set -- $(df -Pk "$NEW" | sed -n '2p')
  reserve=$(($2 / 20))
  [ $reserve -lt 1048576 ] || reserve=1048576
  [ $((need + reserve)) -le "$4" ] ||
    why "$OLD holds $((need / 1024)) MiB to be copied, $NEW has $(($4 / 1024)) MiB free and\
 $((reserve / 1024)) must stay so"
fi
for b in $todo; do
  # By the folder that we are in: the service user may not pass through a person's home.
  if linked "$b" && chown -h "$USER:$USER" "$b" &&
    as_user sh -c 'ln "$1" "$2.new" && mv -f "$2.new" "$2"' sh "$b" "$NEW/blobs/$b" 2>/dev/null
  then continue; fi
  readable "$b" blobs
  as_owner cat "$b" | as_user sh -c 'rm -f "$1.new"; cat >"$1.new"' sh "$NEW/blobs/$b" ||
    why "cannot copy $OLD/blobs/$b"
  sum=$(as_user sha256sum "$NEW/blobs/$b.new")
  # What is broken there is left behind, and comes anew.
  if [ "sha256-${sum%% *}" = "$b" ]; then as_user mv -f "$NEW/blobs/$b.new" "$NEW/blobs/$b"
  else as_user rm -f "$NEW/blobs/$b.new"; fi || why "cannot write to $NEW/blobs"
done

# The manifests last. Always copies: names move by changing these files.
cd ../manifests || exit 0
as_owner find . -type f ! -path '*[!-A-Za-z0-9._:/]*' | sed 's|^\./||' | while read -r m; do
  readable "$m" manifests
  as_owner cat "$m" </dev/null | as_user sh -c '[ ! -e "$1" ] || exit 0
mkdir -p "${1%/*}" && cat >"$2" && mv -f "$2" "$1"' sh "$NEW/manifests/$m" "$NEW/.manifest.new" ||
    why "cannot write to $NEW/manifests"
done
