# last_words UNIT PATTERN MATCH...: the newest line of the journal since $since (of since_now) that
# grep finds PATTERN in and for which MATCH holds, journalctl's own; else how UNIT ended; nothing
# where systemd did not begin: then systemctl has said why. No -n: up to systemd 253 it means the
# oldest lines beside --since.
# What a process of another user said right before its end may come late to the journal, which
# --sync does not wait for; it has neither a unit nor an invocation there then: give its
# SYSLOG_IDENTIFIER as well.
last_words() {
  of=$1 like=$2
  shift 2
  for wait in 0 1 2 3 4; do
    sleep $wait
    journalctl --sync
    said=$(journalctl -q --no-pager -o cat --since "$since" "$@" | grep -ie "$like" | tail -n 1)
    [ -z "$said" ] || break
  done
  [ -n "$said" ] || said=$(systemctl show -p Result --value "$of" | grep -vx success) || :
  echo "$said"
}
since_now() { since=$(date '+%F %T.%6N'); }
