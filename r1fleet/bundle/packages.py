"""apt on a host, with a bundle's packages as its only source: pieces of shell, and their answer.

Variables: STAGED (the folder with the packages and their index), NAMES (of packages).
"""

import re

# After the index came as Packages.new.
SOURCES = """
mv -f "$STAGED/Packages.new" "$STAGED/Packages" && chmod 644 "$STAGED/Packages" &&
  mkdir -p "$STAGED/lists/partial" || exit 1
echo "deb [trusted=yes] file:$STAGED ./" >"$STAGED/sources.list"
cat >"$STAGED/preferences" <<'END'
Package: *nvidia* libcuda* libnvcuvid1 libnvoptix1 cuda-drivers*
Pin: origin ""
Pin-Priority: 1001
END
"""

# Without the host's own sources nothing is asked of any network; without its own lists they stay
# as they are. Its driver's packages go to the bundle's version, also to a lower one; of anything
# else apt takes a lower version by no means.
SIMULATE = """
umask 022
cat >"$STAGED/apt.conf" <<END
quiet "2";
Dir::Etc::SourceList "$STAGED/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "$STAGED/preferences";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$STAGED/lists";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Sandbox::User "root";
Acquire::Languages "none";
END
export APT_CONFIG="$STAGED/apt.conf" LC_ALL=C
apt-get update >&2 || exit 1
apt-get install --simulate -y --allow-downgrades --no-install-recommends $NAMES
"""

# For a script whose APT_CONFIG is its own, as `brought.noting` sees to.
FROM_BUNDLE = 'cat "$STAGED/apt.conf" >>"$APT_CONFIG" || exit 1\n'
# For a script whose own APT_CONFIG is $conf.
ALSO_FROM_BUNDLE = 'cat "$STAGED/apt.conf" >>"$conf"\n'
DONE = 'rm -rf "$STAGED"; rmdir "${STAGED%/*}" 2>/dev/null || :\n'


def installs(output: str) -> list[tuple[str, str]]:
    """What apt-get says that it would install, as (package, version)."""
    return re.findall(r"^Inst (\S+) (?:\[[^\]]*\] )?\((\S+)", output, re.MULTILINE)
