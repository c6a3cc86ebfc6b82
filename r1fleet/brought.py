"""What r1fleet brings to a host beside its own files is noted there as it comes, for remove.py.

By the script that brings it and whatever becomes of it: a run that fails has brought it as well.
What somebody else installs while the script waits for apt's lock is not ours: a package counts only
where the script's own apt says that it unpacks it.
"""

from r1fleet import paths

_LIST = """
r1_packages() {
  dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' 2>/dev/null | sed -n 's/^.i *//p'
}
r1_before=" $(r1_packages | tr '\\n' ' ')"
r1_own=$(mktemp -d) && chmod 755 "$r1_own" || exit 1  # apt reads it as its own user too
echo "DPkg::Pre-Install-Pkgs { \\"cat >>$r1_own/unpacked || :\\"; };" >"$r1_own/apt.conf" || exit 1
export APT_CONFIG="$r1_own/apt.conf"
"""
_NOTE = f"""
install -d -m 755 {paths.STATE_DIR}
r1_packages | while read -r name; do
  case $r1_before in *" $name "*) continue ;; esac
  ! grep -qF "/${{name}}_" "$r1_own/unpacked" 2>/dev/null || echo "$KIND $name"
done >>{paths.BROUGHT_FILE}
rm -rf "$r1_own"
exit $r1_rc
"""


def noting(kind: str, script: str) -> str:
    """A script that installs packages, and what notes them on the host as of this kind.

    Its last line of output and its exit code stay the script's own. A script with an APT_CONFIG of
    its own takes this one's lines into it.
    """
    note = _NOTE.replace("$KIND", kind)
    return f"{_LIST}(\n{script}\n)\nr1_rc=$?\n{note}"


def note(line: str) -> str:
    """A line of shell that notes one thing, before it is brought."""
    return (
        f"install -d -m 755 {paths.STATE_DIR} && echo '{line}' >>{paths.BROUGHT_FILE} || exit 1\n"
    )
