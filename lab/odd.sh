# Makes a lab host odd at its first boot ($user: who enters it); /tmp anew at each.
set -e
mount -o remount,noexec,nosuid,nodev /tmp
[ -e /etc/r1lab-odd.password ] || exit 0
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
apt-get -q update
apt-get -qy install --no-install-recommends fish locales
rm -rf /var/lib/apt/lists/*
echo 'de_DE.UTF-8 UTF-8' >/etc/locale.gen
locale-gen
echo LANG=de_DE.UTF-8 >/etc/default/locale
useradd --create-home --shell /usr/bin/fish "$user"
chpasswd </etc/r1lab-odd.password
mkdir -p "/home/$user/.config/fish"
cat >"/home/$user/.config/fish/config.fish" <<'FISH'
echo "Willkommen, schön dass du da bist"
echo "@@ kein Postfach"
echo "fish: Wartung am Dienstag" >&2
printf 'ohne Ende' >&2
printf '\033]0;Werkstatt\007'
FISH
chown -R "$user:" "/home/$user"
rm /etc/r1lab-odd.password
