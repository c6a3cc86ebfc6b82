"""How much memory a model takes, the way llama.cpp and Ollama count it. Pure functions, bytes.

Sources: llama.cpp b10488 (src/llama-model.cpp, common/fit.cpp, src/llama-quant.cpp) and Ollama
v0.32.15 (server/sched.go, llm/llama_server.go). The compute buffer's terms were found by comparing
llama.cpp's own "projected to use" for 1.5b to 70b, context 4096 to 131072, parallel 1 and 4, cache
f16, q8_0 and q4_0, micro-batch 256 to 2048, one to four devices: all agree within 1 MiB per device
(tests/unit/data/projections.csv). 671b is an estimate on the safe side.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

from r1fleet import catalog
from r1fleet.catalog import KvType, ModelTag, Shape

MIB = 1024**2
# What a process with a CUDA context takes of a card before it allocates anything (Ollama's figure).
CUDA_CONTEXT_MIB = 457
# What llama.cpp's --fit leaves free on every device, else it moves layers to the host.
FIT_MARGIN_MIB = 1024
# What the system of a host keeps for itself when a model runs on the CPU.
SYSTEM_MIB = 2048

# Bytes per value: block bytes / block values of each GGUF type.
_BYTES = {
    "F32": (4, 1),
    "F16": (2, 1),
    "Q8_0": (34, 32),
    "Q6_K": (210, 256),
    "Q5_K": (176, 256),
    "Q4_K": (144, 256),
}
# Types of a quantisation's tensors: of most, and of the output (and more, see is_finer).
TENSOR_TYPES = {"q4_K_M": ("Q4_K", "Q6_K"), "q8_0": ("Q8_0", "Q8_0"), "fp16": ("F16", "F16")}
_CACHE_BYTES: dict[str, tuple[int, int]] = {"f16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}
# GGML_SCHED_MAX_COPIES: with several cards CUDA keeps this many copies of each input.
_PIPELINE_COPIES = 4


@dataclass(frozen=True)
class Weights:
    """Bytes of the tensors. The token embedding stays in host memory wherever the layers go."""

    layers: tuple[int, ...]
    output: int
    embedding: int

    @property
    def blocks(self) -> tuple[int, ...]:
        """What is dealt over devices, in order: the layers, then the output."""
        return (*self.layers, self.output)


@dataclass(frozen=True)
class Load:
    """A way to load a model: context tokens per request, requests at once, cache type, batch.

    `flash` is flash attention; `copies` is whether several cards keep copies of the inputs.
    """

    context: int
    parallel: int
    kv_type: KvType
    batch: int
    flash: bool = True
    copies: bool = False

    @property
    def slot_context(self) -> int:
        """Context of one request as llama.cpp rounds it."""
        return -(-self.context // 256) * 256


@cache
def weights(model: ModelTag) -> Weights:
    """Tensor bytes by the types that the quantisation gives each tensor."""
    if model.tensors:
        return Weights(model.tensors.layers, model.tensors.output, model.tensors.embedding)
    shape = model.shape
    vocabulary = shape.vocab * shape.embd
    plain, output = TENSOR_TYPES[model.quantisation]
    embedding = tensor_bytes(vocabulary, plain)
    if shape.arch == "deepseek2":
        rest = model.size_bytes - embedding - tensor_bytes(vocabulary, output)
        even = (rest // shape.layers,) * shape.layers
        return Weights(even, tensor_bytes(vocabulary, output), embedding)
    layers = tuple(_layer(model, index, plain, output) for index in range(shape.layers))
    return Weights(layers, tensor_bytes(vocabulary, output) + 4 * shape.embd, embedding)


def _layer(model: ModelTag, index: int, plain: str, finer: str) -> int:
    """Bytes of one layer."""
    shape, is_fine = model.shape, is_finer(model, index)
    q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    v_plain, v_finer = model.attn_v or (plain, finer)
    extra = {
        "qwen2": q_width + 2 * kv_width,  # biases of Q, K and V
        "qwen3": 2 * shape.head_dim,  # norms of Q and K
    }.get(shape.arch, 0)
    return (
        tensor_bytes(2 * q_width * shape.embd + kv_width * shape.embd, plain)
        + tensor_bytes(kv_width * shape.embd, v_finer if is_fine else v_plain)
        + tensor_bytes(2 * shape.ffn * shape.embd, plain)
        + tensor_bytes(shape.ffn * shape.embd, finer if is_fine else plain)
        + 4 * (2 * shape.embd + extra)
    )


def is_finer(model: ModelTag, index: int) -> bool:
    """Whether k-quants keep attn_v and ffn_down of a layer finer than the rest (llama-quant)."""
    layers, eighth = model.shape.layers, model.shape.layers // 8
    is_fine = index < eighth or index >= 7 * layers // 8 or (index - eighth) % 3 == 2
    return is_fine and model.quantisation == "q4_K_M"


def tensor_bytes(values: int, gguf_type: str) -> int:
    """Bytes of a tensor of so many values."""
    block_bytes, block_values = _BYTES[gguf_type]
    return values * block_bytes // block_values


def cache_per_layer(shape: Shape, load: Load) -> int:
    """KV cache of one layer: allocated at load for the whole context of all requests."""
    block_bytes, block_values = _CACHE_BYTES[load.kv_type]
    return shape.cache_width * block_bytes * load.slot_context * load.parallel // block_values


def compute(shape: Shape, load: Load, *, first: bool = True) -> int:
    """Compute buffer of one device; the `first` holds one more row, unless the cache is quantised.

    Per token of the micro-batch: three rows of the feed-forward, two or three of the embedding and
    the attention mask (2 bytes per token of context); without flash attention the scores of all
    heads instead. The logits of one token per request are far below these.
    """
    batch = min(load.batch, load.context * load.parallel)
    rows = 3 if first and load.kv_type == "f16" else 2
    mask = 2 * load.slot_context
    per_token = 4 * (3 * shape.ffn + rows * shape.embd) + mask
    if not load.flash:
        scores = (4 * shape.heads + 4) * load.slot_context
        attention = scores + 4 * (4 * shape.embd + shape.cache_width)
        per_token = max(attention, per_token + mask)
    if shape.arch == "deepseek2":
        # Absorbed queries (kv_lora + rope) of all heads, twice, on top: not measured, generous.
        per_token += 4 * 2 * shape.heads * shape.cache_width
    if load.copies:
        per_token += (_PIPELINE_COPIES - 1) * (4 * 2 * shape.embd + mask)
    return batch * per_token


def host_compute(shape: Shape, load: Load) -> int:
    """Compute buffer that stays in host memory: the input rows and the masks."""
    return min(load.batch, load.context * load.parallel) * (4 * shape.embd + 2 * load.slot_context)


def host(model: ModelTag, load: Load) -> int:
    """What stays in host memory when all layers are on GPUs: token embedding, inputs, masks."""
    return weights(model).embedding + host_compute(model.shape, load)


@lru_cache(maxsize=4096)
def blocks(model: ModelTag, load: Load) -> tuple[int, ...]:
    """Bytes of each layer with its cache, then of the output."""
    known, cached = weights(model), cache_per_layer(model.shape, load)
    return (*(layer + cached for layer in known.layers), known.output)


@cache
def extras_mib(names: tuple[str, ...], context: int, parallel: int) -> int:
    """What models beside R1 take of a card: each with its own CUDA context, and room enough that
    Ollama loads it there instead of unloading R1 (80 % of what is free)."""
    return sum(_extra_mib(name, context, parallel) for name in names)


def _extra_mib(name: str, context: int, parallel: int) -> int:
    if name in catalog.extras():
        extra = catalog.extras()[name]
        rough, need = extra.size_bytes, extra.size_bytes + extra.buffers_mib * MIB
    else:
        model = catalog.find_tag(name.partition(":")[2])
        load = Load(context, parallel, "f16", 2048)
        rough = predicted(model, context, parallel)
        need = sum(blocks(model, load)) + compute(model.shape, load)
    scheduler = rough * 100 // 80 - FIT_MARGIN_MIB * MIB
    return -(-max(need + CUDA_CONTEXT_MIB * MIB, scheduler) // MIB)


def predicted(model: ModelTag, context: int, parallel: int) -> int:
    """Ollama's own rough figure (PredictServerVRAM): file plus an f16 cache, whatever is set."""
    shape = model.shape
    width = 2 * shape.kv_heads * (shape.embd // shape.heads)
    return model.size_bytes + width * shape.layers * context * parallel * 2


def batch(predicted_bytes: int, available_bytes: int, tokens: int) -> int:
    """The -b and -ub that Ollama passes with flash attention (automaticGenerationBatch).

    `tokens` is context x parallel; an `available_bytes` of 0 means unknown: the largest. Without
    flash attention it is 512, on cards of up to 8 GiB 256.
    """
    wanted = 2048 if tokens > 32768 else 1024 if tokens > 4096 else 512
    for size, headroom, surcharge in ((2048, 60, 2048 * MIB), (1024, 75, 768 * MIB)):
        if size > wanted:
            continue
        fits = (
            predicted_bytes <= available_bytes * headroom // 100
            and predicted_bytes + surcharge <= available_bytes * 80 // 100
        )
        if fits or not available_bytes:
            return size
    return 512


def deal(blocks: tuple[int, ...], shares: tuple[int, ...]) -> tuple[int, ...] | None:
    """How many blocks each device gets when they are split by free memory (load_tensors)."""
    if not any(shares):
        return None
    total, reached, taken, counts = sum(shares), 0, 0, []
    for share in shares:
        reached += share
        upto = -(-reached * len(blocks) // total)
        counts.append(upto - taken)
        taken = upto
    return tuple(counts)


def fill(blocks: tuple[int, ...], budgets: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks per device when whole ones are packed back to front (common/fit.cpp step 3).

    A budget is what a device may hold of weights and cache. The first blocks may be left over.
    """
    counts, left = [], len(blocks)
    for budget in reversed(budgets):
        room, start = budget, left
        while left and blocks[left - 1] <= room:
            left -= 1
            room -= blocks[left]
        counts.append(start - left)
    return tuple(reversed(counts))


def place(blocks: tuple[int, ...], frees: tuple[int, ...], overhead: int) -> tuple[int, ...] | None:
    """Bytes per device when all blocks are placed the way llama.cpp does, None when they are not.

    First by free memory; where a device would keep less than the margin, packed back to front.
    `overhead` is the compute buffer of each device that holds a block.
    """
    budgets = tuple(max(free - FIT_MARGIN_MIB * MIB - overhead, 0) for free in frees)
    for counts in (deal(blocks, frees), fill(blocks, budgets)):
        if not counts or sum(counts) < len(blocks):
            continue
        sizes = slices(blocks, counts)
        if all(size <= budget for size, budget in zip(sizes, budgets, strict=True)):
            return tuple(size + overhead if size else 0 for size in sizes)
    return None


def slices(blocks: tuple[int, ...], counts: tuple[int, ...]) -> tuple[int, ...]:
    """Sums of consecutive blocks, so many each time."""
    sizes, start = [], 0
    for count in counts:
        sizes.append(sum(blocks[start : start + count]))
        start += count
    return tuple(sizes)
