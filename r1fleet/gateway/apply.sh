# Makes what was sent for the gateway the live files, if Caddy takes it. Variables: DIR (the live
# files; what was sent lies in DIR/next), CADDY, ACCOUNT, HOME_DIR, MARK, VERB (restart or reload).
set -eu
next=$DIR/next
why() { rm -rf "$next"; echo "$1" >&2; exit 1; }
for file in Caddyfile tokens; do
  [ -e "$next/$file" ] || cp -p "$DIR/$file" "$next/$file" || why "$DIR/$file is missing"
done
# As the account that will run it: it must be able to read a certificate, and owns what it writes.
said=$(runuser -u "$ACCOUNT" -- env -i PATH="$PATH" HOME="$HOME_DIR" XDG_DATA_HOME="$HOME_DIR" \
  XDG_CONFIG_HOME="$HOME_DIR" "$CADDY" validate --config "$next/Caddyfile" --adapter caddyfile 2>&1) ||
  why "$(printf '%s\n' "$said" | tail -n 1 | sed 's/r1f_[A-Za-z0-9_-]*/r1f_.../g')"
install -d -m 755 "${MARK%/*}"
[ "$(cat "$MARK" 2>/dev/null)" = restart ] || echo "$VERB" >"$MARK"
mv -f "$next/tokens" "$DIR/tokens"
mv -f "$next/Caddyfile" "$DIR/Caddyfile"
rmdir "$next"
