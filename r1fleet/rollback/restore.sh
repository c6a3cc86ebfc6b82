# Puts back what a snapshot holds, each file by rename. Arguments come as variables: R1_DIR (the
# snapshot), R1_FILES, R1_ENGINE_FILES, R1_ENGINE (directory of the engine), R1_ROOT, R1_MODELS,
# R1_WEIGHTS, R1_SIDE (manifest of the former name, and its sha256; may be empty), R1_MARK.
# Last line of output: "same", "models", or "restart" when the engine has to be.
set -u
umask 022
why() { echo "$1" >&2; exit 1; }
[ -x "$R1_ROOT/$R1_ENGINE/bin/ollama" ] || why "the engine $R1_ENGINE is no longer there"
[ -f "$R1_MODELS/blobs/$R1_WEIGHTS" ] || why "the weights of the model are no longer there"
done=same
for file in $R1_FILES; do
  cmp -s "$R1_DIR/root$file" "$file" && continue
  case " $R1_ENGINE_FILES " in *" $file "*) done=restart ;; *) [ $done = restart ] || done=models ;; esac
  mkdir -p "${R1_MARK%/*}" && touch "$R1_MARK" || exit 1
  mkdir -p "${file%/*}" || exit 1
  cp -p "$R1_DIR/root$file" "$file.new" && mv -f "$file.new" "$file" || exit 1
done
# What the engine reads and did not then, as the hardening of before it was known.
for file in $R1_ENGINE_FILES; do
  case " $R1_FILES " in *" $file "*) continue ;; esac
  [ -e "$file" ] || continue
  done=restart
  mkdir -p "${R1_MARK%/*}" && touch "$R1_MARK" && rm -f "$file" || exit 1
done
if [ "$(readlink "$R1_ROOT/current")" != "$R1_ENGINE" ]; then
  done=restart
  mkdir -p "${R1_MARK%/*}" && touch "$R1_MARK" || exit 1
  ln -sfn "$R1_ENGINE" "$R1_ROOT/.current" && mv -T "$R1_ROOT/.current" "$R1_ROOT/current" || exit 1
fi
cd "$R1_DIR/models" || exit 1
parts=$(find . -type f ! -exec cmp -s {} "$R1_MODELS/{}" \; -print)
if [ -n "$parts" ]; then
  [ $done = restart ] || done=models
  # As the service user: it owns the directory and could plant links in it. Blobs come first.
  tar -c $parts | runuser -u ollama -- env "R1_MODELS=$R1_MODELS" sh -c '
    stage=$R1_MODELS/.r1fleet-back
    umask 022
    rm -rf "$stage"; mkdir -m 700 "$stage" || exit 1
    trap "rm -rf $stage" EXIT
    tar -x -C "$stage" --no-same-permissions || exit 1
    cd "$stage" && for file in $(find ./blobs -type f) $(find ./manifests -type f); do
      chmod 644 "$file"
      mkdir -p "$R1_MODELS/${file%/*}" && mv -f "$file" "$R1_MODELS/$file" || exit 1
    done' 2>/dev/null || why "cannot write to $R1_MODELS"
fi
if [ -n "$R1_SIDE" ]; then
  side=$R1_MODELS/manifests/${R1_SIDE% *}
  [ "$(sha256sum <"$side")" != "${R1_SIDE#* }  -" ] || rm -f "$side"
fi 2>/dev/null
echo "$done"
