# Part of the probe, functions only: an Ollama that is not r1fleet's, and whoever holds the engine's
# port. Where r1fleet's own engine runs, or nobody holds it, only builtins of the shell are used.
# R1_PORT: the port in four hex digits, as the kernel prints it. echo is driver/look.sh's.

# Sets inode: of the socket that listens where the engine would.
listener() {
  inode=
  for t in /proc/net/tcp /proc/net/tcp6; do
    while read -r _ local _ st _ _ _ _ _ i _; do
      case $st in st) continue ;; 0A) ;; *) break ;; esac # those that listen come first
      case $local in *:"$R1_PORT") ;; *) continue ;; esac
      case $R1_URL in
        http://127.* | 'http://[::1]'*)
          case ${local%:*} in
            ??????7F | *FFFF0000??????7F | 00000000000000000000000001000000) ;;
            *[!0]*) continue ;;
          esac ;;
      esac
      inode=$i
      return
    done <$t
  done
}

own_engine() { # whether r1fleet's engine runs: it ends at once where the port is another's
  g=/system.slice/ollama.service/cgroup.procs
  [ -L /opt/ollama/current ] &&
    { read -r p </sys/fs/cgroup$g || read -r p </sys/fs/cgroup/systemd$g; }
}

process() { # PID: who it is, and with what settings it runs
  echo "pid $1"
  read -r name <"/proc/$1/comm" && echo "name $name"
  while read -r k v _; do [ "$k" = Uid: ] && break; done <"/proc/$1/status"
  echo "user $(id -nu "$v" || echo "$v")"
  cgroup=
  while IFS=: read -r _ c path; do
    case $c$cgroup in '' | name=systemd*) cgroup=$path ;; esac
  done <"/proc/$1/cgroup"
  echo "cgroup $cgroup"
  readlink "/proc/$1/exe" | sed 's/^/exe /'
  u=${cgroup##*/}
  case $cgroup in */ollama.service | /user.slice/*) ;; *.service)
    systemctl show "$u" -p MainPID | sed 's/^MainPID=/main /' ;; esac
  [ "$name" = ollama ] && variables "$(tr '\0' '\n' <"/proc/$1/environ")"
}

# Prints Ollama's own variables, but for those that may be secret, and sets models.
variables() {
  printf '%s\n' "$1" | sed -n '/KEY\|TOKEN\|SECRET\|PASS/d;/^OLLAMA_[A-Z_]*=/s/^/env /p'
  home=$(printf '%s\n' "$1" | sed -n 's/^HOME=//p')
  models=$(printf '%s\n' "$1" | sed -n 's/^OLLAMA_MODELS=//p')
  models=${models:-${home:-$2}/.ollama/models}
}

store() { # DIR: whose it is, and what is in it
  [ -d "$1/blobs" ] || return
  # The probe's answer is ASCII: what is not would come as another path.
  case $1 in *[!\ -~]*) echo "odd yes"; return ;; esac
  printf '%s\n' "$1" | sed 's/^/models /'
  stat -c 'owner %u' "$1/blobs"
  [ "$1/blobs" -ef "$R1_MODELS/blobs" ] && echo "same yes"
  d=$R1_MODELS
  while [ ! -d "$d" ]; do d=$(dirname "$d"); done
  [ "$(stat -c %d "$d")" = "$(stat -c %d "$1/blobs")" ] && echo "near yes"
  du -sk "$1/blobs" | { read -r k _; echo "kib $k"; }
  # No other names: with a line break in it, one would be a word of this answer.
  (cd "$1/manifests" && find . -type f ! -path '*[!-A-Za-z0-9._:/]*') | sed 's|^\./|model |'
}

holder() { # of the port
  pid=$(find /proc/[0-9]*/fd -lname "socket:\[$inode\]" | sed -n '1{s|/proc/||;s|/.*||;p;}')
  # Its own engine: a drop-in may have put the unit into another slice.
  case $(readlink "/proc/$pid/exe") in /opt/ollama/[0-9]*/bin/ollama*) return ;; esac
  echo "found port"
  name=; cgroup=
  [ -n "$pid" ] && process "$pid"
  case $cgroup in
    */docker-*.scope) id=${cgroup##*docker-}; docked "${id%.scope}" ;;
    */docker/*) docked "${cgroup##*/docker/}" ;;
    *) case $name in docker-proxy) docked ;; ollama) store "$models" ;; esac ;;
  esac
}

docked() { # [ID]
  command -v docker >/dev/null || return
  id=${1:-$(timeout -k 2 20 docker ps -q --no-trunc --filter "publish=${R1_URL##*:}" | sed -n 1p)}
  [ -n "$id" ] || return
  told=$(timeout -k 2 20 docker inspect --format 'container {{.Name}}
image {{.Config.Image}}
restart {{.HostConfig.RestartPolicy.Name}}
compose {{json (index .Config.Labels "com.docker.compose.project")}}
passing {{.HostConfig.AutoRemove}}
inner {{.State.Pid}}
{{range .Mounts}}mount {{.Destination}} {{.Source}}
{{end}}' "$id") || return
  printf '%s\n' "$told"
  inner=$(printf '%s\n' "$told" | sed -n 's/^inner //p')
  read -r name <"/proc/$inner/comm" && echo "serves $name"
  variables "$(tr '\0' '\n' <"/proc/$inner/environ")" /root
  # The volume that has it: the one with the longest path.
  deep=
  while read -r k to from; do
    [ "$k" = mount ] && [ ${#to} -gt ${#deep} ] || continue
    case $models/ in "$to"/*) deep=$to; there=$from${models#"$to"} ;; esac
  done <<END
$told
END
  [ -n "$deep" ] && store "$there"
}

packaged() { # which package the unit is of
  if command -v dpkg-query >/dev/null; then
    dpkg-query -S '*/systemd/system/ollama.service' | sed -n 's/^\([^:,]*\).*/package \1/p'
  elif command -v rpm >/dev/null; then rpm -qf --qf 'package %{NAME}\n' "$f" | grep '^package '
  elif command -v pacman >/dev/null; then pacman -Qqo "$f" | sed 's/^/package /'; fi
}

# A unit of Ollama's usual name, whoever made it, running or not.
unit() {
  for f in /etc/systemd/system /run/systemd/system /usr/local/lib/systemd/system \
    /usr/lib/systemd/system /lib/systemd/system; do
    f=$f/ollama.service
    [ -s "$f" ] || continue
    read -r first <"$f"
    case $first in '# Written by r1fleet'*) return ;; esac
    echo "found unit"; echo "fragment $f"
    sed -n 's/^ExecStart=[@:+!-]*\([^ ]*\).*/exec \1/p' "$f"
    # One of a person's own goes before a package's, and is nobody else's.
    case $f in /usr/lib/* | /lib/*) packaged ;; esac
    shown=$(systemctl show ollama.service -p MainPID -p User -p Environment)
    pid=$(printf '%s\n' "$shown" | sed -n 's/^MainPID=//p')
    user=$(printf '%s\n' "$shown" | sed -n 's/^User=//p')
    name=
    [ "${pid:-0}" -gt 0 ] && process "$pid"
    [ "$name" = ollama ] || variables \
      "$(printf '%s\n' "$shown" | sed -n 's/^Environment=//p' | tr ' "' '\n\n')" \
      "$(getent passwd "${user:-root}" | cut -d: -f6)"
    store "$models"
    for c in "$f" /etc/systemd/system*/ollama.service.d/*.conf \
      /run/systemd/system*/ollama.service.d/*.conf; do [ -e "$c" ] && keys "$c"; done
    return
  done
}

keys() { # FILE: what is set in it, by name alone: values may be secret
  sed -n '/^Environment=/{s/^Environment=["'"'"']*\([A-Za-z0-9_]*\).*/\1/p;d;}
s/^\([A-Z][A-Za-z]*\)=.*/\1=/p' "$1" | while read -r k; do echo "key $1 $k"; done
}

snap() {
  [ -e /snap/ollama/current ] || [ -e /var/lib/snapd/snap/ollama/current ] || return
  echo "found snap"
  models=$(timeout -k 2 20 snap get ollama models)
  store "${models:-/var/snap/ollama/common/models}"
}

existing() {
  own_engine && return # listener() alone costs more than a process: it reads byte by byte
  listener
  if [ -n "$inode" ]; then holder
  elif [ -L /opt/ollama/current ]; then return
  elif [ -S /run/docker.sock ]; then
    # Docker may hand the port on without anybody who listens.
    id=$(timeout -k 2 20 docker ps -q --no-trunc --filter "publish=${R1_URL##*:}" | sed -n 1p)
    [ -n "$id" ] && { echo "found port"; docked "$id"; }
  fi
  [ -L /opt/ollama/current ] || { unit; snap; }
}
