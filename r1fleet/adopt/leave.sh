# Removes from a model directory that was taken over the names of what has one in the new one, too,
# and the manifests if nothing else is left. Variables: OLD, NEW, OWNER. Copies stay where they are.
# One directory has many names: by a link, by a mount, with a slash at the end.
[ -d "$OLD/blobs" ] && [ ! "$OLD/blobs" -ef "$NEW/blobs" ] || exit 0
export OLD NEW
setpriv --reuid="$OWNER" --regid="$OWNER" --clear-groups sh -s <<'END'
for file in "$OLD"/blobs/sha256-*; do
  [ ! "$file" -ef "$NEW/blobs/${file##*/}" ] || rm -f "$file"
done
rmdir "$OLD/blobs" 2>/dev/null && rm -rf "$OLD/manifests" && rmdir "$OLD" 2>/dev/null
exit 0
END
