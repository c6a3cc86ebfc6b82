# Installs the driver on a Debian-like host. Variables: KEYRING_URL KEYRING_SHA256 (may be empty)
# PINNING PACKAGES. Every step can be repeated; apt waits for its lock.
set -eu
export DEBIAN_FRONTEND=noninteractive
why() { echo "$1" >&2; exit 1; }
apt() { apt-get -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "$@"; }

# NVIDIA's packages depend on Debian's contrib: taken from the archive that the host already uses,
# with its own key, because apt reads nothing any more when two entries disagree about that.
add_contrib() {
  list=/etc/apt/sources.list.d/r1fleet-contrib.list
  apt-get indextargets --format '$(COMPONENT)|$(LABEL)|$(REPO_URI)|$(CODENAME)|$(SIGNED_BY)' |
    while IFS='|' read -r component label uri codename key; do
      [ "$component $label" = "main Debian" ] || continue
      echo "deb ${key:+[signed-by=$key] }$uri $codename contrib"
    done | sort -u >"$list"
  if ! apt-get indextargets >/dev/null 2>&1; then
    rm -f "$list"
    why "contrib could not be added to the apt sources: add it by hand"
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
