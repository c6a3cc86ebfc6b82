# Puts the alias in place, as the service user. Arguments come as variables: R1_MODELS, R1_SENT
# (file with lines "blob NAME BASE64", "manifest PATH BASE64", "remove PATH SHA256"). All is written
# beside blobs/ and manifests/ on their filesystem and comes by rename: Ollama reads the tree of
# manifests at each request, and its own copy would cut the file short first.
set -u
umask 022
stage=$R1_MODELS/.r1fleet-alias
why() { echo "$1" >&2; exit 1; }

put() { # put TARGET: from standard input, whole
  mkdir -p "${1%/*}" || why "cannot make ${1%/*}"
  base64 -d >"$stage/new" || why "cannot write to $stage"
  sync "$stage/new"
  mv -f "$stage/new" "$1" || why "cannot write to ${1%/*}"
}

rm -rf "$stage"
mkdir -m 700 "$stage" || why "cannot make $stage"
trap 'rm -rf "$stage"' EXIT
while read -r what name content; do
  case $what in
    blob) printf '%s' "$content" | put "$R1_MODELS/blobs/$name" ;;
    manifest) printf '%s' "$content" | put "$R1_MODELS/manifests/$name" ;;
    remove)
      found=$(sha256sum <"$R1_MODELS/manifests/$name") 2>/dev/null || continue
      [ "${found%% *}" != "$content" ] || rm -f "$R1_MODELS/manifests/$name" ;;
  esac || exit 1
done <"$R1_SENT"
