# Restarts the gateway; when it does not come up or does not answer, what ran before is put back.
# Variables: DIR, ROOT, KEY (the Caddy that is to run), UNIT, UNIT_FILE, BEFORE (what ran, as apply.sh
# kept it), MARK, MARKS (files that hold requests back; the first says for whose restart), ANSWER_S
# (within so many seconds it answers). After said.sh.
set -u
# Where a Caddyfile of ours listens; the site without a name takes whatever is asked for.
url() {
  site=$(sed -n 's|^\(.* \)\{0,1\}\(https\{0,1\}\)://:\([0-9]*\) {$|\2 \3|p' "$DIR/Caddyfile" | head -n 1)
  bind=$(sed -n 's/^[[:space:]]*bind //p' "$DIR/Caddyfile" | head -n 1)
  case $bind in *:*) bind="[$bind]" ;; esac
  echo "${site% *}://${bind:-127.0.0.1}:${site#* }/"
}
# It asks whoever comes without a token for one. A certificate that an authority has still to give
# ends the handshake (35): then it listens at least.
answers() {
  i=0 url=$(url)
  while [ $i -lt "$ANSWER_S" ]; do
    code=$(curl -sk --noproxy '*' -m 5 -o /dev/null -w '%{http_code}' "$url")
    got=$?
    [ "$code" = 401 ] || [ $got = 35 ] && return 0
    systemctl is-active -q "$UNIT" || { [ $i -lt 3 ] || return 1; }
    i=$((i + 1))
    sleep 1
  done
  return 1
}
up() {
  systemctl daemon-reload
  systemctl reset-failed "$UNIT" 2>/dev/null
  systemctl enable -q "$UNIT"
  since_now
  refused=$(systemctl restart "$UNIT" 2>&1) || return 1
  answers
}
if up; then rm -rf "$MARK" "$BEFORE"; exit 0; fi
why() { words=$(said); echo "${words:-$(echo "${refused:-no answer at $url}" | head -n 1)}"; }
reason="$KEY does not come up: $(why)"
[ -e "$BEFORE/key" ] || { echo "$reason" >&2; exit 1; }

key=$(cat "$BEFORE/key")
ln -sfn "$key" "$ROOT/.current" && mv -T "$ROOT/.current" "$ROOT/current" &&
  cp -p "$BEFORE/Caddyfile" "$DIR/Caddyfile.new" && mv -f "$DIR/Caddyfile.new" "$DIR/Caddyfile" &&
  cp -p "$BEFORE/tokens" "$DIR/tokens.new" && mv -f "$DIR/tokens.new" "$DIR/tokens" &&
  cp -p "$BEFORE/unit" "$UNIT_FILE.new" && mv -f "$UNIT_FILE.new" "$UNIT_FILE" && up || {
  echo "$reason; what ran before ($key) was put back and does not come up either: $(why)" >&2
  exit 1
}
rm -rf "$MARK" "$BEFORE"
[ "$(cat "${MARKS%% *}" 2>/dev/null)" != gateway ] || rm -f $MARKS
echo "$reason; $key with its files was put back and answers" >&2
exit 1
