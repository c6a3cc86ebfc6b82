# Comes before the commands of a driver's plan, which run as one unit of the host. Variables:
# OUT (what the unit prints goes there), and the proxies for downloads in the environment.
# Every command can be repeated; apt and dnf wait for whoever holds their locks.
set -eu
export DEBIAN_FRONTEND=noninteractive
now=
trap 'code=$?; rm -f "${conf-}"; [ $code = 0 ] || echo "$now: $(tail -n 1 "$OUT")"' EXIT

conf=$(mktemp)
cat "${APT_CONFIG:-/dev/null}" - >"$conf" <<END
quiet "2";
DPkg::Lock::Timeout "600";
Dpkg::Use-Pty "0";
Dpkg::Options { "--force-confdef"; "--force-confold"; };
END
export APT_CONFIG="$conf"

# What an interrupted run left; dpkg itself does not wait for its lock.
finish_packages() {
  tries=60
  until dpkg --configure -a; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || return 1
    sleep 5
  done
}

# Components of the distribution's own archive that the driver's packages depend on. The host's own
# entries are copied with that component, in their own form and with their own keys: apt reads
# nothing any more when two entries for one archive disagree about the key.
add_components() {
  for wanted; do
    apt-get indextargets --format '$(COMPONENT)' | grep -qx "$wanted" && continue
    add_component "$wanted" "/etc/apt/sources.list.d/r1fleet-$wanted"
    changed=1
  done
  [ -z "${changed-}" ] || apt-get update
}

add_component() { # COMPONENT FILE
  rm -f "$2.list" "$2.sources"
  apt-get indextargets --format '$(LABEL)|$(REPO_URI)' | sed -n 's/^\(Debian\|Ubuntu\)|//p' |
    sort -u | while read -r uri; do
      uri=${uri%/}
      cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        awk -v uri="$uri" -v new="$1" '/^deb / && / main/ &&
          (index($0, uri " ") || index($0, uri "/ ")) { sub(/ main.*$/, " " new); print }' >>"$2.list"
      for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] && awk -v uri="$uri" -v new="$1" 'BEGIN { RS = ""; ORS = "\n\n" }
          /Components:[^\n]*main/ && !/Enabled: *no/ &&
          (index($0, uri "\n") || index($0, uri "/\n") || index($0, uri " ")) {
            sub(/Components:[^\n]*/, "Components: " new); print }' "$file"
      done >>"$2.sources"
    done
  [ -s "$2.list" ] || rm -f "$2.list"
  [ -s "$2.sources" ] || rm -f "$2.sources"
  if ! apt-get indextargets >/dev/null 2>&1; then # it cannot read its own sources
    rm -f "$2.list" "$2.sources"
    echo "$1 could not be added to the apt sources: add it by hand, then run again"
    exit 1
  fi
}

# Ends the run before the first change when a package is not to be had.
need_package() {
  if command -v apt-get >/dev/null; then
    [ -z "$(apt-cache show "$1" 2>/dev/null)" ] || return 0
  else
    [ -z "$(dnf -q repoquery "$1" 2>/dev/null)" ] || return 0
  fi
  case $1 in
    linux-modules-nvidia*) echo "no signed modules for kernel $(uname -r): boot the newest kernel," \
      "or set driver_source: nvidia" ;;
    *-"$(uname -r)") echo "no headers for the running kernel $(uname -r): boot the newest one" ;;
    dkms) echo "no repository of the host has dkms: enable EPEL" ;;
    *) echo "no repository of the host has $1" ;;
  esac
  exit 1
}
