"""Where r1fleet keeps things on a host. Nothing of ours lies outside these places."""

ENGINE_ROOT = "/opt/ollama"  # one directory per version and archive, `current` points at one
GATEWAY_ROOT = "/opt/r1fleet/gateway"  # the same for Caddy
LIB = "/usr/local/lib/r1fleet"  # the scripts that units run
ETC = "/etc/r1fleet"
STATE_DIR = "/var/lib/r1fleet"
STATE_FILE = f"{STATE_DIR}/state.json"
LEASE_FILE = f"{STATE_DIR}/lease.json"
HISTORY_FILE = f"{STATE_DIR}/history.jsonl"
DRIVER_RECORD = f"{STATE_DIR}/driver.json"
PULL_DIR = f"{STATE_DIR}/pull"
BUNDLE_DIR = f"{STATE_DIR}/bundle"  # what was sent from a bundle, until it is installed
BROUGHT_FILE = f"{STATE_DIR}/brought"  # packages and users that are ours (r1fleet/brought.py)
ADOPTED_DIR = f"{STATE_DIR}/adopted"  # files of an Ollama that was there, by their own paths
SERVED_DIR = f"{STATE_DIR}/served"  # what was proven last and before, root's alone

ENGINE_HOME = "/var/lib/ollama"  # of the service user
ENGINE_ENV = f"{ETC}/ollama.env"
ENGINE_UNIT = "/etc/systemd/system/ollama.service"
ENGINE_HARDENING = "/etc/systemd/system/ollama.service.d/10-r1fleet-hardening.conf"
PRELOAD_UNIT = "/etc/systemd/system/r1fleet-preload.service"
PRELOAD_BODY = f"{ETC}/preload.json"
WAIT_FOR_GPUS = f"{LIB}/wait-for-gpus"
PRELOAD = f"{LIB}/preload"
MIRROR_CONF = f"{ETC}/mirror.conf"
MIRROR_UNIT = "/etc/systemd/system/r1fleet-mirror.service"
MIRROR_RESOLVER = f"{LIB}/mirror-resolver"
GATEWAY_DIR = f"{ETC}/gateway"
GATEWAY_CADDYFILE = f"{GATEWAY_DIR}/Caddyfile"
GATEWAY_TOKENS = f"{GATEWAY_DIR}/tokens"
GATEWAY_POOLS = f"{GATEWAY_DIR}/pools"  # an empty file, named by the pool that the host serves
GATEWAY_SLOTS = f"{GATEWAY_DIR}/slots"  # of a fleet gateway: the pools that it answers from
GATEWAY_KNOWS = f"{GATEWAY_DIR}/fleet.json"  # and what it was told of the hosts
GATEWAY_BEFORE = f"{GATEWAY_DIR}/before"  # what ran, while a restart is on its way
GATEWAY_UNIT = "/etc/systemd/system/r1fleet-gateway.service"
WATCH = f"{LIB}/watch"
WATCH_CONF = f"{ETC}/watch.conf"
WATCH_UNIT = "/etc/systemd/system/r1fleet-watch.service"
WATCH_TIMER = "/etc/systemd/system/r1fleet-watch.timer"
WATCH_DIR = f"{STATE_DIR}/watch"  # what the watch remembers from look to look
MODPROBE_CONF = "/etc/modprobe.d/r1fleet-nvidia.conf"
PERSISTENCED_DROPIN = "/etc/systemd/system/nvidia-persistenced.service.d"
MODULES_LOAD_CONF = "/etc/modules-load.d/r1fleet-nvidia.conf"
DRIVER_FILES = (MODPROBE_CONF, MODULES_LOAD_CONF)  # they go with the driver, not before it

# There from before a change of what the engine reads until its restart; gone after a boot.
RESTART_MARK = "/run/r1fleet/restart"
MIRROR_RESTART_MARK = "/run/r1fleet/mirror-restart"  # the same for the mirror
GATEWAY_MARK = "/run/r1fleet/gateway-restart"  # says "restart" or "reload" for the gateway

# While a host is changed its gateway fails the health checks, then refuses new requests.
DRAINING = "/run/r1fleet/draining"
REFUSING = "/run/r1fleet/refusing"
DRAIN_FLAG = f"{STATE_DIR}/draining"  # the same, over a boot

PULL_UNIT = "r1fleet-pull.service"

# Every file whose content is compared with what the settings ask for.
MANAGED_FILES = (
    ENGINE_ENV,
    ENGINE_UNIT,
    ENGINE_HARDENING,
    PRELOAD_UNIT,
    PRELOAD_BODY,
    WAIT_FOR_GPUS,
    PRELOAD,
    MODPROBE_CONF,
    MODULES_LOAD_CONF,
    MIRROR_CONF,
    MIRROR_UNIT,
    MIRROR_RESOLVER,
    GATEWAY_CADDYFILE,
    GATEWAY_TOKENS,
    GATEWAY_UNIT,
    WATCH,
    WATCH_CONF,
    WATCH_UNIT,
    WATCH_TIMER,
)
