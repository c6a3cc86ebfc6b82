# Keeps what is served for a way back. Arguments come as variables: R1_HOME (all snapshots), R1_NAME
# (this one), R1_FILES, R1_MODELS with R1_PARTS (below it), R1_KEEP (how many stay), R1_META
# (file), R1_FORMER (its name of an earlier time, or empty).
# Root's alone: the environment may hold a proxy's password.
set -u
umask 077
why() { echo "$1" >&2; exit 1; }
new=$R1_HOME/.new
rm -rf "$new"
mkdir -p "$new/root" "$new/models" || why "cannot make $new"
mv "$R1_META" "$new/meta.json" || exit 1
tar -C / -cf - $(printf ' .%s' $R1_FILES) | tar -C "$new/root" -xpf - || exit 1
tar -C "$R1_MODELS" -cf - $R1_PARTS | tar -C "$new/models" -xf - || exit 1
for file in $R1_FILES; do [ -f "$new/root$file" ] || why "$file is not there"; done
for file in $R1_PARTS; do [ -f "$new/models/$file" ] || why "$R1_MODELS/$file is not there"; done
sync -f "$new"
rm -rf "${R1_HOME:?}/$R1_NAME"
[ -z "$R1_FORMER" ] || rm -rf "${R1_HOME:?}/$R1_FORMER"
mv -T "$new" "$R1_HOME/$R1_NAME" || exit 1
cd "$R1_HOME" || exit 1
count=0
for old in $(ls -r); do
  count=$((count + 1))
  [ $count -le "$R1_KEEP" ] || rm -rf "./$old"
done
