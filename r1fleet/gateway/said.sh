# said: the gateway's last words, without tokens. UNIT; after lastwords.sh. No JSON: requests.
said() {
  last_words "$UNIT" '^[^{]*error' "_SYSTEMD_UNIT=$UNIT" + SYSLOG_IDENTIFIER="${UNIT%.service}" |
    sed 's/r1f_[A-Za-z0-9_-]*/r1f_.../g'
}
