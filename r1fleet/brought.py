"""What r1fleet brings to a host beside its own files is noted there as it comes, for remove.py.

By the script that brings it and whatever becomes of it: a run that fails has brought it as well.
"""

from r1fleet import paths

_LIST = """
r1_packages() {
  dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' 2>/dev/null | sed -n 's/^.i *//p'
}
r1_before=" $(r1_packages | tr '\\n' ' ')"
"""
_NOTE = f"""
install -d -m 755 {paths.STATE_DIR}
r1_packages | while read -r name; do
  case $r1_before in *" $name "*) ;; *) echo "$KIND $name" ;; esac
done >>{paths.BROUGHT_FILE}
exit $r1_rc
"""


def noting(kind: str, script: str) -> str:
    """A script that installs packages, and what notes them on the host as of this kind.

    Its last line of output and its exit code stay the script's own.
    """
    note = _NOTE.replace("$KIND", kind)
    return f"{_LIST}(\n{script}\n)\nr1_rc=$?\n{note}"


def note(line: str) -> str:
    """A line of shell that notes one thing, before it is brought."""
    return (
        f"install -d -m 755 {paths.STATE_DIR} && echo '{line}' >>{paths.BROUGHT_FILE} || exit 1\n"
    )
