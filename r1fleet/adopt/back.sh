# Puts an Ollama that r1fleet took the place of back to where it was, once r1fleet's own is gone.
# Variables: KIND, NAME, UNIT_FILE, RESTART, ENABLED ("yes" if it started by itself), KEPT. It can be
# done again. What somebody has put in the place of a file since stays, and is printed as a line.
set -u
why() { echo "$1" >&2; exit 1; }
back() { # FILE
  [ -e "$KEPT$1" ] || [ -L "$KEPT$1" ] || return 0
  if [ -e "$1" ] || [ -L "$1" ]; then
    echo "$1 has come since, and stays: what was there before r1fleet is $KEPT$1"
    return 1
  fi
  mkdir -p "${1%/*}" && mv "$KEPT$1" "$1" || why "cannot put $1 back"
}
starts=yes
[ -z "$UNIT_FILE" ] || back "$UNIT_FILE" || starts=  # it is another's now
back /usr/local/bin/ollama
systemctl daemon-reload
[ -z "$starts" ] || case $KIND in
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
