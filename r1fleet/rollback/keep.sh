# Keeps what is served for a way back. Arguments come as variables: R1_HOME (all snapshots), R1_NAME
# (this one), R1_FILES, R1_MODELS with R1_PARTS (below it), R1_KEEP (how many stay), R1_META (file).
# Root's alone: the environment may hold a proxy's password.
set -u
umask 077
why() { echo "$1" >&2; exit 1; }
new=$R1_HOME/.new
rm -rf "$new"
mkdir -p "$new/root" "$new/models" || why "cannot make $new"
mv "$R1_META" "$new/meta.json" || exit 1
cp -p --parents -t "$new/root" $R1_FILES || exit 1
cd "$R1_MODELS" && cp --parents -t "$new/models" $R1_PARTS || exit 1
sync -f "$new"
rm -rf "${R1_HOME:?}/$R1_NAME"
mv -T "$new" "$R1_HOME/$R1_NAME" || exit 1
cd "$R1_HOME" || exit 1
count=0
for old in $(ls -r); do
  count=$((count + 1))
  [ $count -le "$R1_KEEP" ] || rm -rf "./$old"
done
