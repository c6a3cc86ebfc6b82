# Ends an Ollama that r1fleet takes the place of, and keeps aside what would be in its way.
# Variables: KIND, NAME, PID, UNIT_FILE, KEPT (the folder for that). It can be done again.
set -u
why() { echo "$1" >&2; exit 1; }
keep() { # FILE, unless it is r1fleet's: below KEPT, by its own path
  [ -e "$1" ] || [ -L "$1" ] || return 0
  case $(readlink "$1") in /opt/ollama/*) return 0 ;; esac
  [ -L "$1" ] || ! head -c 100 "$1" | grep -q '^# Written by r1fleet' || return 0
  install -d -m 755 "$KEPT" "$KEPT${1%/*}" && mv -f "$1" "$KEPT$1" || why "cannot keep $1 aside"
}
case $KIND in
  install.sh | package)
    if ! grep -q '^# Written by r1fleet' /etc/systemd/system/ollama.service 2>/dev/null; then
      systemctl stop ollama.service 2>/dev/null
      ! systemctl is-active -q ollama.service || why "ollama.service does not stop"
      [ -z "$UNIT_FILE" ] || systemctl disable -q ollama.service 2>/dev/null
    fi ;;
  service) systemctl disable -q --now "$NAME" || why "$NAME does not stop" ;;
  snap) snap stop --disable ollama >/dev/null || why "the snap does not stop" ;;
  docker)
    docker update --restart=no "$NAME" >/dev/null && docker stop "$NAME" >/dev/null ||
      why "the container does not stop" ;;
  process)
    gone() { ! read -r name <"/proc/$PID/comm" 2>/dev/null || [ "$name" != ollama ]; }
    if [ "$PID" != 0 ] && ! gone; then
      [ "$(id -nu "$(stat -c %u "/proc/$PID")")" = "$NAME" ] ||
        why "process $PID is another one now"
      kill "$PID"
      i=0
      until gone; do
        i=$((i + 1))
        [ $i -lt 150 ] || why "process $PID does not end"
        sleep 0.2
      done
    fi ;;
esac
[ -z "$UNIT_FILE" ] || keep "$UNIT_FILE"
keep /usr/local/bin/ollama
systemctl daemon-reload
