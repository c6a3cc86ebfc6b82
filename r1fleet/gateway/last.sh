# last: the newest error that the gateway told of since $since, else how its unit ended. Variables:
# UNIT, since (as date '+%F %T').
# By its name as well: of a process that has ended already the journal may not know the unit. Its
# last words may still be on their way to the journal, which --sync does not wait for.
last() {
  for wait in 0 1 2 3 4; do
    sleep $wait
    journalctl --sync
    said=$(journalctl -q -n 30 --no-pager -o cat --since "$since" "_SYSTEMD_UNIT=$UNIT" + \
      SYSLOG_IDENTIFIER=caddy | grep -i error | tail -n 1 | sed 's/r1f_[A-Za-z0-9_-]*/r1f_.../g')
    [ -z "$said" ] || break
  done
  echo "${said:-$(systemctl show -p Result --value "$UNIT")}"
}
