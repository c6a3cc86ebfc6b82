# Waits until no request is running, at most R1_LIMIT_S seconds. Prints "idle SECONDS" or
# "busy COUNT". llama-server tells on its own port, which its command line names, which of its slots
# are at work. R1_PID is an engine that may be too old to have one: then it is at work as long as
# its R1_PORT has connections. Two looks in a row must find none, because the next request may wait
# in the engine.
ports() {
  for p in /proc/[0-9]*; do
    read -r name <"$p/comm" || continue
    case $name in llama-server*) ;; *) continue ;; esac
    case $(readlink "$p/exe") in "$R1_ROOT"/*) ;; *) continue ;; esac
    tr '\0' '\n' <"$p/cmdline" | sed -n '/^--port$/{n;p;q;}'
  done 2>/dev/null | sort -u
}
connections() {
  for table in "/proc/$R1_PID/net/tcp" "/proc/$R1_PID/net/tcp6"; do
    sed -n "/^ *[0-9]*: [0-9A-F]*:$R1_PORT [0-9A-F:]* 01 /s/.*/\"is_processing\":true/p" "$table"
  done
}
busy() {
  list=$(ports)
  {
    [ -n "$list" ] || [ "$R1_PID" = 0 ] || connections
    for port in $list; do
      # One that is too busy to tell is busy.
      $enter curl -s --noproxy '*' -m 5 "http://127.0.0.1:$port/slots" ||
        echo '"is_processing":true'
    done
  } | grep -o '"is_processing": *true' | wc -l
}
enter=  # a container has a network of its own
[ "$R1_PID" = 0 ] || [ "/proc/$R1_PID/ns/net" -ef /proc/1/ns/net ] || enter="nsenter -t $R1_PID -n"
begin=$(date +%s) quiet=0
while :; do
  count=$(busy)
  now=$(date +%s)
  if [ "$count" -eq 0 ]; then quiet=$((quiet + 1)); else quiet=0; fi
  if [ $quiet -ge 2 ]; then echo "idle $((now - begin))"; exit 0; fi
  if [ "$count" -gt 0 ] && [ $((now - begin)) -ge "$R1_LIMIT_S" ]; then
    echo "busy $count"
    exit 0
  fi
  sleep 0.3
done
