# Makes what was sent for the gateway live, if the Caddy that is to run it takes it: nothing is
# switched before. Variables: DIR (the live files; what was sent lies in DIR/next), ROOT and KEY (that
# Caddy), UNIT, UNIT_FILE, BEFORE (where what runs now is kept when VERB is restart), ACCOUNT,
# HOME_DIR, MARK, VERB (restart or reload).
set -eu
next=$DIR/next
why() { rm -rf "$next"; echo "$1" >&2; exit 1; }
[ -d "$next" ] || install -d -m 700 "$next"
for file in Caddyfile tokens; do
  [ -e "$next/$file" ] || cp -p "$DIR/$file" "$next/$file" || why "$DIR/$file is missing"
done
chown "root:$ACCOUNT" "$next" && chmod 750 "$next"
# As the account that will run it: it must be able to read a certificate, and owns what it writes.
said=$(runuser -u "$ACCOUNT" -- env -i PATH="$PATH" HOME="$HOME_DIR" XDG_DATA_HOME="$HOME_DIR" \
  XDG_CONFIG_HOME="$HOME_DIR" "$ROOT/$KEY/caddy" validate --config "$next/Caddyfile" \
  --adapter caddyfile 2>&1) || {
  said=$(printf '%s\n' "$said" | tail -n 1 | sed 's/r1f_[A-Za-z0-9_-]*/r1f_.../g')
  why "${said:-$ROOT/$KEY/caddy ended with an error and said nothing}"
}
was=$(cat "$MARK" 2>/dev/null || :)
# A run that was cut off before its restart has kept what really runs.
if [ "$VERB" = restart ] && { [ "$was" != restart ] || [ ! -e "$BEFORE/key" ]; }; then
  rm -rf "$BEFORE"
  if systemctl is-active -q "$UNIT"; then
    install -d -m 700 "$BEFORE"
    cp -p "$DIR/Caddyfile" "$DIR/tokens" "$BEFORE/"
    cp -p "$UNIT_FILE" "$BEFORE/unit"
    readlink "$ROOT/current" >"$BEFORE/key"
  fi
fi
install -d -m 755 "${MARK%/*}"
[ "$was" = restart ] || echo "$VERB" >"$MARK"
mv -f "$next/tokens" "$DIR/tokens"
mv -f "$next/Caddyfile" "$DIR/Caddyfile"
rmdir "$next"
ln -sfn "$KEY" "$ROOT/.current"
mv -T "$ROOT/.current" "$ROOT/current"
