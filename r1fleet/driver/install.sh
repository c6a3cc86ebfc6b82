# Installs the driver on a Debian-like host. Variables: KEYRING_URL KEYRING_SHA256 (may be empty)
# PINNING PACKAGES. Every step can be repeated; apt waits for its lock.
set -eu
export DEBIAN_FRONTEND=noninteractive
why() { echo "$1" >&2; exit 1; }
apt() { apt-get -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "$@"; }

# NVIDIA's packages depend on Debian's contrib. The host's own entries for Debian are copied with
# that component, in their own form and with their own keys: apt reads nothing any more when two
# entries for one archive disagree about the key.
add_contrib() {
  new=/etc/apt/sources.list.d/r1fleet-contrib
  rm -f "$new.list" "$new.sources"
  apt-get indextargets --format '$(LABEL)|$(REPO_URI)' | sed -n 's/^Debian|//p' | sort -u |
    while read -r uri; do
      uri=${uri%/}
      cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        awk -v uri="$uri" '/^deb / && / main/ && (index($0, uri " ") || index($0, uri "/ ")) {
          sub(/ main.*$/, " contrib"); print }' >>"$new.list"
      for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] && awk -v uri="$uri" 'BEGIN { RS = ""; ORS = "\n\n" }
          /Components:[^\n]*main/ && !/Enabled: *no/ &&
          (index($0, uri "\n") || index($0, uri "/\n") || index($0, uri " ")) {
            sub(/Components:[^\n]*/, "Components: contrib"); print }' "$file"
      done >>"$new.sources"
    done
  [ -s "$new.list" ] || rm -f "$new.list"
  [ -s "$new.sources" ] || rm -f "$new.sources"
  if ! apt-get indextargets >/dev/null 2>&1; then # it cannot read its own sources
    rm -f "$new.list" "$new.sources"
    why "contrib could not be added to the apt sources: add it by hand, then run again"
  fi
}

# What an interrupted run left; dpkg itself does not wait for its lock.
tries=60
until dpkg --configure -a; do
  tries=$((tries - 1))
  [ "$tries" -gt 0 ] || why "dpkg --configure -a failed"
  sleep 5
done
if ! dpkg-query -W -f '${db:Status-Abbrev}' cuda-keyring 2>/dev/null | grep -q '^.i'; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  chmod 755 "$folder" # apt reads it as a user of its own
  deb=$folder/cuda-keyring.deb
  curl -fsSL --retry 3 --connect-timeout 15 -o "$deb" "$KEYRING_URL" ||
    why "download of $KEYRING_URL failed"
  found=$(sha256sum "$deb")
  [ -z "$KEYRING_SHA256" ] || [ "${found%% *}" = "$KEYRING_SHA256" ] ||
    why "checksum of $KEYRING_URL is ${found%% *}, expected $KEYRING_SHA256"
  apt install -y "$deb"
fi
apt update
if ! apt-get indextargets --format '$(COMPONENT)' | grep -qx contrib; then
  add_contrib
  apt update
fi
# First alone: it decides which branch the names of the others mean.
apt install -y --allow-downgrades --no-install-recommends $PINNING
apt install -y --no-install-recommends $PACKAGES
if [ -e /lib/systemd/system/nvidia-persistenced.service ]; then
  systemctl enable -q nvidia-persistenced.service
fi
