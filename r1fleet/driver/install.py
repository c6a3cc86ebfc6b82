"""Operations of the driver stage: packages, then the module in the kernel, then the proof."""

import json
from collections.abc import Generator, Iterable
from importlib import resources

from pyinfra.api import FunctionCommand, operation

from r1fleet import paths
from r1fleet.brought import noting
from r1fleet.bundle import needs, send
from r1fleet.bundle import packages as from_bundle
from r1fleet.driver import strangers
from r1fleet.driver.health import fault
from r1fleet.driver.plan import DriverPlan, blocked, is_part, only_holds
from r1fleet.driver.reboot import own_boot_id, reboot
from r1fleet.driver.turns import take_turn
from r1fleet.engine.install import send_packages
from r1fleet.hostfacts import Probe
from r1fleet.longstep import RUN_DIR, long_step
from r1fleet.managed import ManagedFile, write
from r1fleet.remote import fail, step
from r1fleet.settings import Settings
from r1fleet.shell import assign, export, write_file

Commands = Generator[FunctionCommand, None, None]
UNIT = "r1fleet-driver"

BLACKLIST = ManagedFile(
    paths.MODPROBE_CONF,
    "# Written by r1fleet: these hold the GPU before NVIDIA's module can.\n"
    "blacklist nouveau\nblacklist nova_core\nblacklist nova_drm\noptions nouveau modeset=0\n",
)
MODULES = ManagedFile(
    paths.MODULES_LOAD_CONF,
    "# Written by r1fleet: nvidia_uvm is not loaded by itself, and CUDA needs it.\n"
    "nvidia\nnvidia_uvm\n",
)

INITRAMFS = """
if command -v update-initramfs >/dev/null; then update-initramfs -u -k all
elif command -v dracut >/dev/null; then dracut -f --regenerate-all
fi
"""

# A daemon that some packages install and leave switched off, or start before its devices exist.
# Ubuntu starts the persistence daemon without persistence mode: each query then takes seconds.
_DAEMONS = """
line=$(systemctl cat nvidia-persistenced.service 2>/dev/null | sed -n 's/^ExecStart=\\(.\\)/\\1/p' |
  tail -n 1)
case $line in *' --no-persistence-mode'*)
  install -d -m 755 "$DROPIN"
  printf '[Service]\\nExecStart=\\nExecStart=%s\\n' \
    "${line%% --no-persistence-mode*} --persistence-mode${line#* --no-persistence-mode}" \
    >"$DROPIN/r1fleet.conf"
  systemctl daemon-reload
  systemctl stop nvidia-persistenced.service ;;
esac
# An engine that looked for its GPUs without the fabric manager has found none.
[ -z "$SWITCHES" ] || { install -d -m 755 "${MARK%/*}" && touch "$MARK"; }
for unit in nvidia-persistenced nvidia-fabricmanager; do
  systemctl cat "$unit.service" >/dev/null 2>&1 || continue
  [ $unit = nvidia-fabricmanager ] && [ -z "$SWITCHES" ] && continue
  systemctl enable -q "$unit.service"
  systemctl start "$unit.service" || :
done
for unit in $RESTART; do systemctl start "$unit" || :; done
"""

_LOAD = """
modprobe nvidia && modprobe nvidia_uvm || exit 1
command -v nvidia-modprobe >/dev/null && nvidia-modprobe -u -c=0
"""

# Ends with 0 also when a module is in use: then nothing was unloaded that matters, and the next
# look at the host decides on a reboot.
_UNLOAD = """
systemctl stop ollama.service r1fleet-watch.service nvidia-persistenced.service \
  nvidia-fabricmanager.service 2>/dev/null
for module in nvidia_uvm nvidia_drm nvidia_modeset nvidia_peermem nvidia; do
  [ -d /sys/module/$module ] || continue
  rmmod $module || break
done
"""

_STOP_OTHER = """
if [ -n "$UNIT" ]; then systemctl stop -- "$UNIT"; exit; fi
kill "$PID" 2>/dev/null || exit 0
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$PID" 2>/dev/null || exit 0; sleep 1; done
echo "it does not end" >&2; exit 1
"""


@operation()
def install(probe: Probe, plan: DriverPlan, settings: Settings) -> Commands:
    """Bring the planned packages, the blacklist and the list of modules to the host.

    + probe: the host as it is
    + plan: from `driver.plan.plan`; "refuse" fails the host before anything changes
    + settings: who may be stopped, and the proxy
    """
    if plan.action == "refuse" or not plan.usable:
        yield fail("driver", plan.reason, plan.fix, shows=plan.commands)
        return
    if plan.action != "change":
        return
    if not only_holds(plan):
        yield from _stop_others(probe, settings)
    differing = [file for file in (BLACKLIST, MODULES) if file.differs(probe.files)]
    yield from write("driver", differing)
    if plan.commands:
        yield _record(probe, settings)
        if settings.bundle and not only_holds(plan):
            names = tuple(sorted(needs.driver_names(settings, probe, plan)))
            yield send_packages("driver", probe, settings.bundle, names)
        yield long_step(
            "driver",
            plan.title,
            UNIT,
            _script(plan, settings),
            f"see the packages' own messages in {RUN_DIR}/{UNIT}.out on the host",
            change=f"driver {plan.branch} ({plan.flavour})" if plan.branch else plan.title,
            shows=plan.commands,
        )
    if BLACKLIST in differing:
        yield _initramfs()


@operation()
def activate(probe: Probe, plan: DriverPlan, stopped: Iterable[str] = ()) -> Commands:
    """Bring the installed module into the kernel without a reboot, where that can be.

    + probe: the host after `install`
    + plan: as for `install`
    + stopped: units that `install` has stopped, to be started again
    """
    found = fault(probe)
    if plan.action != "change" or only_holds(plan) or blocked(probe):
        return
    driver = probe.driver
    if not driver.on_disk:
        yield fail(
            "driver",
            f"the packages are there but no module was built for kernel {probe.kernel}",
            "see /var/lib/dkms/nvidia/*/build/make.log; then: dkms autoinstall",
        )
        return
    restart = " ".join(sorted(filter(None, stopped)))
    switches = "yes" if probe.has_nvswitch else ""
    names = {"RESTART": restart, "SWITCHES": switches, "DROPIN": paths.PERSISTENCED_DROPIN}
    head = assign(names | {"MARK": paths.RESTART_MARK})
    if driver.loaded is None or (found and found.repair == "load"):
        title, script = "loads the module", _LOAD
    elif found and found.repair in ("reload", "packages"):
        title, script = "reloads the module", f"{_UNLOAD}{_LOAD}"
    else:
        title, script = "starts the driver's services", ""
    yield step(
        "driver",
        title,
        f"{head}{script}{_DAEMONS}",
        "dmesg on the host tells more",
        change=f"module {driver.on_disk} loaded" if script else "driver's services",
    )


@operation()
def restart(probe: Probe, plan: DriverPlan, settings: Settings, serving: bool = False) -> Commands:
    """One reboot, where another driver or an older module still has the GPUs.

    + probe: the host after `activate`
    + plan: as for `install`
    + settings: driver_reboot, driver_reboot_timeout_s, rollout_reboots_at_once
    + serving: it served before the change, so it waits for its turn; others do not
    """
    driver, found = probe.driver, fault(probe)
    if plan.action != "change" or found is None or only_holds(plan):
        return
    stale = driver.loaded is not None and driver.loaded != driver.on_disk
    if not (blocked(probe) or stale or found.repair == "reload"):
        return
    if blocked(probe) and driver.blacklisted_at_boot:
        # It was so at this boot, too: one more reboot would change nothing.
        yield fail(
            "driver",
            "nouveau holds the GPU although it was blacklisted at boot",
            "look for it in the initramfs and on the kernel's command line",
        )
        return
    reason = "another driver holds the GPU" if blocked(probe) else found.what
    others = strangers.shared(probe)
    if probe.boot_id == own_boot_id():
        others = "this very run, which it would end"
    if settings.driver_reboot != "auto" or others:
        why = f"reboot pending: {reason}"
        why += f"; the host is also used by {others}" if others else ""
        yield fail("driver", why, "run 'systemctl reboot' on it when that suits, then run again")
        return
    if serving:
        yield take_turn("driver", "waits for its turn", settings.rollout_reboots_at_once)
    yield _initramfs()  # again: a run that was killed may have left it out
    yield reboot("driver", f"reboots: {reason}", probe.boot_id, settings.driver_reboot_timeout_s)


def _initramfs() -> FunctionCommand:
    return step(
        "driver",
        "rebuilds the initramfs",
        INITRAMFS,
        "run update-initramfs -u -k all (or dracut -f --regenerate-all) on the host",
        timeout_s=900,
    )


@operation()
def prove(probe: Probe, settings: Settings) -> Commands:
    """Fail the host unless every GPU of the PCI bus can be used, by a driver that is new enough.

    + probe: the host after `restart`
    + settings: driver_min_version
    """
    found = fault(probe, settings.driver_min_version) if probe.nvidia_gpus else None
    if found:
        fix = found.fix or "nvidia-smi and 'journalctl -k | grep NVRM' on the host tell more"
        yield fail("driver", found.what, fix)


def _stop_others(probe: Probe, settings: Settings) -> Commands:
    done = set()
    for holder, unit in strangers.to_stop(probe, settings.driver_stop_others).items():
        name = unit or f"{holder.name} (pid {holder.pid})"
        if name in done:
            continue
        done.add(name)
        yield step(
            "driver",
            f"stops {name}, as driver_stop_others says",
            assign({"UNIT": unit, "PID": str(holder.pid)}) + _STOP_OTHER,
            "end it by hand, then run again",
            change=f"{name} stopped",
        )


def _record(probe: Probe, settings: Settings) -> FunctionCommand:
    """Notes on the host which driver was there, for driver_rollback."""
    before = {name: version for name, version in probe.packages.items() if is_part(name)}
    if settings.driver_rollback:
        before = probe.system.record.get("before", {})
    known = probe.system.record
    others = known.get("held_before", []) if known else sorted(probe.system.held)
    record = {
        "version": 1,
        "before": before,
        "held": settings.driver_hold,
        "held_before": others,  # by somebody else, before the first of our holds
    }
    content = json.dumps(record) + "\n"
    return step(
        "driver",
        "notes which driver was there",
        write_file(paths.DRIVER_RECORD, content, mode="644"),
        "check the free space and rights there",
        stdin=content,
    )


def _script(plan: DriverPlan, settings: Settings) -> str:
    values = {"OUT": f"{RUN_DIR}/{UNIT}.out", "STAGED": send.PACKAGES_DIR}
    head = export(settings.proxies) + assign(values)
    home = resources.files("r1fleet.driver")
    begin = head + (home / "install.sh").read_text(encoding="ascii")
    lines = [assign({"now": command}) + command for command in plan.commands]
    if settings.bundle and not only_holds(plan):
        lines = [from_bundle.ALSO_FROM_BUNDLE, *lines, from_bundle.DONE]
    return noting("driver", "\n".join([begin, *lines, ""]))
