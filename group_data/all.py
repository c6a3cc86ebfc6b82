"""Every setting with its default. Generated: python -m r1fleet.settings"""

# Entering as a user who is not root (docs/hosts.md)
sudo_password = None  # for hosts with _sudo: ask (once, here), env:NAME, file:PATH, command:WORDS

# The engine's unit: its network and limits (docs/security.md)
unit_network = "auto"  # auto: loopback alone where the engine needs no more; open: no limit
unit_memory_max_mib = None  # of host memory for the engine; more ends it
unit_cpu_percent = None  # of processor time for the engine; 100 is one core
unit_tasks_max = None  # processes and threads of the engine
unit_files_max = None  # files and connections that it may have open at once

# An Ollama that is there already (docs/adopt.md)
adopt = "auto"  # an Ollama that is there: auto: take its place, with its models; or refuse

# Taking r1fleet away again (docs/remove.md)
remove = None  # by --data alone: from how many hosts; another number: none
remove_models = False  # yes: the model directory as well
remove_driver = False  # yes: the driver's packages that came with r1fleet as well

# The engine: which Ollama
engine_version = "0.32.15"  # the Ollama release
engine_sha256 = None  # of its archive; None: the line of sha256sum.txt beside it
engine_url = "https://github.com/ollama/ollama/releases/download"  # where releases lie

# Ollama's own variables, by their names in lower case
ollama_models = "/var/lib/ollama/models"  # model directory
port = None  # the port alone, folded into ollama_host
ollama_host = "127.0.0.1:11434"  # address to listen on; others than loopback need expose open
ollama_origins = []  # browser origins allowed besides local ones, each with its scheme, or *
ollama_keep_alive = "-1"  # how long a model stays loaded: 5m, 300 (s), negative for ever
ollama_debug = 0  # 0, 1 (debug) or 2 (trace)
ollama_num_parallel = 1  # requests answered at once; each has the whole context
ollama_max_queue = 512  # requests that may wait
ollama_context_length = None  # tokens; None: the largest from context_min to context_max that fits
ollama_kv_cache_type = None  # f16, q8_0 or q4_0; None: f16 where it fits, else q8_0
ollama_flash_attention = None  # None: where the GPU has it
ollama_max_loaded_models = None  # None: the planned one and extra_models
ollama_sched_spread = None  # spread over all GPUs; None: where one is not enough
ollama_gpu_overhead = 0  # bytes of each GPU that are left to others
ollama_load_timeout = "5m"  # a load that stalls so long is ended
ollama_noprune = False  # keep unused blobs when the engine starts
ollama_no_cloud = True  # no remote inference, no web search
https_proxy = None  # proxy for downloads on the host, http://host:port
no_proxy = None  # hosts that are reached without the proxy
extra_env = {}  # further variables of the engine

# The NVIDIA driver
driver_branch = None  # such as 580; None: a driver that works stays, else 580
driver_min_version = None  # an older driver is changed, such as 580.95.05
driver_flavour = "auto"  # kernel module: auto (by PCI id), open or proprietary
driver_source = None  # nvidia, distro; None: signed modules of the distribution, else nvidia
driver_reboot = "auto"  # auto: one if needed and nobody else is there; ask: left to you; never
driver_reboot_timeout_s = 900  # not back by then fails it; much memory is tested for minutes
rollout_reboots_at_once = 1  # serving hosts that may be away for a reboot
driver_hold = False  # hold driver and kernel packages together
driver_allow_unproven = False  # go on where no test has been
driver_stop_others = []  # users of a GPU that may be stopped
driver_rollback = False  # back to the driver before the last
driver_repository_url = "https://developer.download.nvidia.com/compute/cuda/repos"  # or a mirror
driver_keyring_sha256 = None  # of the keyring package; None: whatever https serves

# A cache on the LAN, where the inventory has a group mirror (docs/mirror.md)
serve = True  # False: no model here, only a mirror
mirror_url = None  # to pull through; None: the first of the group mirror, if any
mirror_fallback = True  # to the source when the mirror fails; False: the host stops
mirror_bind = "0.0.0.0"  # address of the mirror host that it listens on
mirror_port = 5080  # its port
mirror_allow = []  # networks that may ask it; none named: the hosts of the inventory
mirror_dir = "/var/lib/r1fleet-mirror"  # its cache, also on a disk of its own
mirror_size = "100G"  # what was not asked for longest goes beyond this

# Without internet (docs/bundle.md)
bundle = None  # a folder of `r1fleet bundle` on the machine you run on: all comes from there

# Who reaches it, and the gateway for that (docs/gateway.md)
expose_unauthenticated = None  # for expose open: 'yes-i-know'
expose = "local"  # local: the host alone; gateway: by token and TLS; open: whoever reaches it
gateway_plain_http = None  # for gateway_tls off beyond loopback: 'yes-i-know'
gateway_listen = "0.0.0.0:11443"  # where the gateway listens
gateway_name = None  # in its certificate; None: the address in the inventory
gateway_certificate = None  # for gateway_tls files: on the host, with its chain
gateway_key = None  # and its key, which the group r1fleet-gateway can read
gateway_tls = "internal"  # internal: by a CA of the host; acme; files: your own; off
gateway_tokens = "file:~/.config/r1fleet/tokens"  # here: file:PATH, env:NAME or command:WORDS
gateway_version = "2.11.9"  # the Caddy release
gateway_sha512 = None  # of its archive; None: the line of the release's checksums
gateway_url = "https://github.com/caddyserver/caddy/releases/download"  # where releases lie

# A fleet gateway, on hosts of the group gateway (docs/fleet-gateway.md)
pool_mixed = False  # True: hosts of a size answer whatever digest they serve
pool_default = None  # size without a prefix as /32b; None: that of the most hosts
pool_names = {}  # host names in place of prefixes, as {'32b': 'r1-32b.example.org'}

# The watch: a timer that looks after the host (docs/monitoring/README.md)
watch = True  # a timer of the host looks after it; False: none
watch_interval_s = 30  # from the end of one look to the next
watch_textfile_dir = None  # None: /var/lib/prometheus/node-exporter, where that is there
watch_hook = None  # a program of the host that is told of failures, without rights
watch_ask_every_s = 900  # one token is asked for when nobody else asks; 0: never
watch_disk_min_mib = 5120  # less that is free for models is a fault
watch_repair_every_s = 600  # at least so long between two restarts of the engine
watch_repairs_per_day = 3  # and no more than these in 24 hours; 0: it repairs nothing

# The rollout: who goes first, when it stops, who is left alone
rollout_canary = 1  # hosts of each GPU model that go first, or their names; 0: none
rollout_batch = "25%"  # hosts of each wave after that: a number or a share
rollout_max_failed = 0  # more hosts that failed in their wave stop the rollout
rollout_max_unreachable = 0  # as that, for hosts that were lost in their wave
rollout_pause_s = 0  # wait between two waves, in seconds
maintenance = {}  # left alone: {"until": "2026-12-01T06:00", "reason": "new PSU"}
steal = False  # take hosts over that another operator holds

# The name that clients ask for, and changes of what serves it
alias = "deepseek-r1:fleet"  # the name that clients ask for; None: no such name
alias_class = False  # one more with the size, as deepseek-r1:fleet-32b
alias_system = None  # its system prompt
alias_parameters = {}  # its parameters, as {"temperature": 0.6, "top_p": 0.95}
keep_tags = 1  # former tags that stay for a way back; only what r1fleet brought
drain_timeout_s = 60  # wait for running requests before a restart; 0: cut them off
golden = None  # your own prompts, a YAML file (docs/alias.md)
to = None  # for rollback.py: a date; None: what was served before

# Where models come from
registry_url = "https://registry.ollama.ai"  # or a mirror
registry_login_file = None  # a local file with user:password, or a token, in one line
registry_login_command = None  # or a local command that prints it, such as: pass show registry
pull_via = "fetch"  # fetch: a downloader that resumes; api: Ollama's own pull
pull_rate_limit = None  # bytes per second of each host, such as 20M
model_digests = {}  # pinned: {"deepseek-r1:14b": "sha256:..."}; goes before the lock
model_sources = {}  # GGUF files: {"deepseek-r1:14b": {"url": "...", "sha256": "..."}}
deep_check = False  # read every model on the hosts and check its SHA-256, each run
prune = "keep"  # all: models that are not wanted here are removed

# The model and its size
model = "deepseek-r1"  # name in the registry
tag = None  # a forced tag such as 14b; None: the best that fits
context_min = 16384  # least context in tokens; R1 thinks long
context_max = 32768  # more than this is not taken
size_order = ["671b", "70b", "32b", "14b", "8b", "7b", "1.5b"]  # may be chosen, best first
quantisations = ["q4_K_M"]  # of a size, best first: q4_K_M, q8_0, fp16
kv_cache_types = ["f16", "q8_0"]  # cache types allowed, best first; ollama_kv_cache_type forces one
placement = "gpu"  # gpu: wholly on the GPUs or refused; offload: the rest in RAM; cpu: RAM alone
offload_min_percent = 50  # of the layers, on GPUs, with offload; less: a warning if tag is forced
no_gpu = "refuse"  # where GPUs can hold no model: refuse, or cpu: as placement cpu there
cpu_largest_tag = "7b"  # the largest on a CPU by placement or no_gpu; tag may force more
vram_reserve_mib = 0  # MiB of each GPU that the plan leaves to others
desktop = False  # a screen hangs on it: reserve at least 1536
extra_models = []  # loaded beside it, such as nomic-embed-text; room is kept for them

# The proof
smoke_prompt = "Reply with exactly one word: READY"  # the question
smoke_expect = "READY"  # found in the answer, in any case
tokens_per_s_min = 0.0  # slower fails
load_time_max_s = 300  # a longer load fails
verify_max_age_s = 86400  # an unchanged host is asked again after this
report = None  # JSON report, a path on the machine you run on
