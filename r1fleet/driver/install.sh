# Installs the driver on a Debian-like host. Variables: KEYRING_URL KEYRING_SHA256 (may be empty)
# PINNING PACKAGES. Every step can be repeated; apt waits for its lock.
set -eu
export DEBIAN_FRONTEND=noninteractive
why() { echo "$1" >&2; exit 1; }
apt() { apt-get -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "$@"; }

if ! dpkg-query -W -f '${db:Status-Abbrev}' cuda-keyring 2>/dev/null | grep -q '^.i'; then
  deb=$(mktemp --suffix=.deb)
  trap 'rm -f "$deb"' EXIT
  curl -fsSL --retry 3 --connect-timeout 15 -o "$deb" "$KEYRING_URL" ||
    why "download of $KEYRING_URL failed"
  found=$(sha256sum "$deb")
  [ -z "$KEYRING_SHA256" ] || [ "${found%% *}" = "$KEYRING_SHA256" ] ||
    why "checksum of $KEYRING_URL is ${found%% *}, expected $KEYRING_SHA256"
  dpkg -i "$deb" >/dev/null
fi
dpkg --configure -a # what an interrupted run left
apt update || why "apt-get update failed: $(apt update 2>&1 | tail -n 1)"
# NVIDIA's packages depend on Debian's contrib: taken from the archive that the host already uses.
if ! apt-get indextargets --format '$(COMPONENT)' | grep -qx contrib; then
  apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(LABEL)' |
    while read -r uri codename component label; do
      [ "$component $label" = "main Debian" ] && echo "deb $uri $codename contrib"
    done | sort -u >/etc/apt/sources.list.d/r1fleet-contrib.list
  apt update
fi
# First alone: it decides which branch the names of the others mean.
apt install -y --allow-downgrades --no-install-recommends $PINNING
apt install -y --no-install-recommends $PACKAGES || why "apt-get install $PACKAGES failed"
if [ -e /lib/systemd/system/nvidia-persistenced.service ]; then
  systemctl enable -q nvidia-persistenced.service
fi
