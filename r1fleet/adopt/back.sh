# Puts an Ollama that r1fleet took the place of back to where it was, once r1fleet's own is gone.
# Variables: KIND, NAME, UNIT_FILE, RESTART, ENABLED ("yes" if it started by itself), KEPT. It can be
# done again. What somebody has put in the place of a file since stays.
set -u
why() { echo "$1" >&2; exit 1; }
back() { # FILE
  [ -e "$KEPT$1" ] || [ -L "$KEPT$1" ] || return 0
  [ ! -e "$1" ] || { echo "$1 is there: what was kept of it stays in $KEPT$1"; return 0; }
  mkdir -p "${1%/*}" && mv "$KEPT$1" "$1" || why "cannot put $1 back"
}
[ -z "$UNIT_FILE" ] || back "$UNIT_FILE"
back /usr/local/bin/ollama
systemctl daemon-reload
case $KIND in
  install.sh | package)
    [ "$ENABLED" != yes ] || systemctl enable -q --now ollama.service ||
      why "ollama.service does not start" ;;
  service) systemctl enable -q --now "$NAME" || why "$NAME does not start" ;;
  snap) snap start --enable ollama >/dev/null || why "the snap does not start" ;;
  docker)
    docker update --restart="$RESTART" "$NAME" >/dev/null && docker start "$NAME" >/dev/null ||
      why "the container does not start" ;;
esac
find "$KEPT" -depth -type d -exec rmdir {} + 2>/dev/null
exit 0
