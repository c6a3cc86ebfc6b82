# Waits until no request is running, at most R1_LIMIT_S seconds. Prints "idle SECONDS" or
# "busy COUNT". llama-server tells on its own port, which its command line names, which of its slots
# are at work; two looks in a row must find none, because the next request may wait in the engine.
ports() {
  for p in /proc/[0-9]*; do
    read -r name <"$p/comm" || continue
    case $name in llama-server*) ;; *) continue ;; esac
    case $(readlink "$p/exe") in "$R1_ROOT"/*) ;; *) continue ;; esac
    tr '\0' '\n' <"$p/cmdline" | sed -n '/^--port$/{n;p;q;}'
  done 2>/dev/null | sort -u
}
busy() {
  for port in $(ports); do
    # One that is too busy to tell is busy.
    curl -s --noproxy '*' -m 5 "http://127.0.0.1:$port/slots" || echo '"is_processing":true'
  done | grep -o '"is_processing": *true' | wc -l
}
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
