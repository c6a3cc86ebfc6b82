"""What is run on a host to take r1fleet away. Each can be run again, whatever is left."""

from r1fleet import paths

_SYSTEMD = "/etc/systemd/system"

AT_WORK = """
for unit in $UNITS; do
  ! systemctl is-active -q "$unit" || { echo "$unit is still at work" >&2; exit 1; }
done
"""

# A unit of somebody else that has Ollama's name is not ours, nor is what else lies beside our
# versions.
ENGINE = f"""
ours() {{ grep -q '^# Written by r1fleet' "$1" 2>/dev/null; }}
systemctl stop {paths.PULL_UNIT} r1fleet-engine.service r1fleet-gateway-fetch.service 2>/dev/null
systemctl disable -q --now r1fleet-preload.service 2>/dev/null
rm -f {paths.PRELOAD_UNIT} {paths.ENGINE_HARDENING}
if ours {paths.ENGINE_UNIT}; then
  systemctl disable -q --now ollama.service 2>/dev/null
  ! systemctl is-active -q ollama.service || {{ echo "ollama.service does not end" >&2; exit 1; }}
  rm -f {paths.ENGINE_UNIT}
fi
for folder in {_SYSTEMD}/ollama.service.d {_SYSTEMD}/ollama.service.wants; do
  rmdir "$folder" 2>/dev/null
done
systemctl daemon-reload
systemctl reset-failed ollama.service r1fleet-preload.service {paths.PULL_UNIT} 2>/dev/null
case $(readlink /usr/local/bin/ollama) in
  {paths.ENGINE_ROOT}/current/*) rm -f /usr/local/bin/ollama ;;
esac
root={paths.ENGINE_ROOT}
rm -rf $root/current $root/.current $root/.new-* $root/[0-9]*.[0-9]* || exit 1
rmdir $root 2>/dev/null || :
"""

# Its configuration, by which the next run sees that a mirror is there, goes last.
MIRROR = f"""
systemctl disable -q --now "$UNIT" 2>/dev/null
! systemctl is-active -q "$UNIT" || {{ echo "$UNIT does not end" >&2; exit 1; }}
rm -f {paths.MIRROR_UNIT} {paths.MIRROR_RESOLVER} {paths.MIRROR_RESTART_MARK}
systemctl daemon-reload
rm -rf "$DIR/cache" || exit 1
rmdir "$DIR" 2>/dev/null
! getent passwd "$ACCOUNT" >/dev/null || userdel "$ACCOUNT" || exit 1
rm -f {paths.MIRROR_CONF}
"""

MODELS = """
for part in blobs manifests .r1fleet-staging .r1fleet-upload .r1fleet-back; do
  rm -rf "${MODELS:?}/$part"
done
rmdir "$MODELS" 2>/dev/null  # a mount stays, and so does what somebody else has put there
[ ! -e "$MODELS/blobs" ]
"""

# Models that stay become root's: nobody who is given the number of the user later has them. Those
# that a person or a container has as well have gone back to their owner. The
# user, by whom the next run sees that this is to be done, goes last.
USER = """
for entry in "$DIR"/* "$DIR"/.[!.]*; do
  case "$MODELS/" in "$entry"/*) ;; *) rm -rf "$entry" ;; esac
done
uid=$(id -u "$ACCOUNT" 2>/dev/null)
[ -z "$uid" ] || [ ! -d "$MODELS" ] || find "$MODELS" -user "$uid" -exec chown -h root:root {} +
[ ! -d "$DIR" ] || chown -h root:root "$DIR"
rmdir "$DIR" 2>/dev/null
[ ! -e "$DIR/.ollama" ] || exit 1
! getent passwd "$ACCOUNT" >/dev/null || userdel "$ACCOUNT" || exit 1
! getent group "$ACCOUNT" >/dev/null || groupdel "$ACCOUNT"
"""

UNHOLD = """
if command -v apt-mark >/dev/null; then apt-mark unhold $NAMES
else for name in $NAMES; do dnf -q versionlock delete "$name" || :; done; fi
"""

_PURGE = """
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
here=
for name in $NAMES; do
  case $(dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null) in
    '' | un* | pn*) ;;
    *) here="$here $name" ;;
  esac
done
others=
[ -z "$here" ] || others=$(apt-get -s purge $here | while read -r word name _; do
  case $word in Purg | Remv) ;; *) continue ;; esac
  case "$here " in *" ${name%%:*} "*) ;; *) echo "$name" ;; esac
done)
purge() {
  [ -z "$here" ] || apt-get -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 purge -y $here
}
"""

# An nginx that somebody has come to use has sites in /etc/nginx, which a purge takes along.
TOOLS = f"""
{_PURGE}
case "$here " in *" nginx "*)
  ! systemctl is-enabled -q nginx.service && ! systemctl is-active -q nginx.service ||
    others="$others nginx.service" ;;
esac 2>/dev/null
if [ -n "$others" ]; then echo kept $others; exit 0; fi
purge || exit 1
[ -z "$here" ] || echo removed
"""

# What loads the module at boot goes with it; a module that is in use stays until then.
DRIVER = f"""
{_PURGE}
if [ -n "$others" ]; then echo "other packages need it:" $others; exit 1; fi
systemctl disable -q --now nvidia-persistenced.service nvidia-fabricmanager.service 2>/dev/null
for module in nvidia_uvm nvidia_drm nvidia_modeset nvidia_peermem nvidia; do
  [ ! -d /sys/module/$module ] || rmmod $module || break
done
purge || exit 1
rm -f $FILES "$DROPIN/r1fleet.conf" /etc/apt/sources.list.d/r1fleet-*
# What dkms leaves of its modules' folders, where nothing else is in them.
for folder in "$DROPIN" /usr/lib/modules/*/updates/dkms /usr/lib/modules/*/updates \
  /var/lib/dkms/nvidia /var/lib/dkms; do
  rmdir "$folder" 2>/dev/null
done
systemctl daemon-reload
"""

# The last of all, by which the next run sees that it is done. What came with a driver that stays is
# not forgotten: it may be asked for later.
STATE = f"""
keep={paths.BROUGHT_FILE}
if [ -n "$NOTES_STAY" ]; then grep '^driver ' $keep | sort -u >$keep.new && mv -f $keep.new $keep
else rm -f $keep; fi || exit 1
rm -rf {paths.ETC} {paths.LIB} /opt/r1fleet /run/r1fleet-pull /run/r1fleet-pull-ask
for entry in {paths.STATE_DIR}/* {paths.STATE_DIR}/.[!.]*; do
  case $entry in {paths.ADOPTED_DIR} | $keep) continue ;; esac
  rm -rf "$entry" || exit 1
done
rmdir {paths.STATE_DIR} 2>/dev/null
rm -rf /run/r1fleet
"""
