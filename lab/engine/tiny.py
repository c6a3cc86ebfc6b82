"""A GGUF of about a megabyte that really answers, on the real engine.

One block with zero weights, so a token's embedding reaches the output unchanged: a one-hot vector,
which the output matrix, a table of next tokens, turns into the next token. Every prompt ends in
the assistant's mark, which starts the chain `<think> the prompt asks for one word</think>READY`.
"""

import hashlib
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import TokenType

from lab.engine.shapes import CONTEXT_MAX

ANSWER = "READY"
THOUGHT = (" the", " prompt", " asks", " for", " one", " word")
# The bars of DeepSeek's marks are U+FF5C.
END, START, USER, ASSISTANT = (
    f"<\uff5c{word}\uff5c>"
    for word in ("end▁of▁sentence", "begin▁of▁sentence", "User", "Assistant")
)
_WIDTH, _HEADS, _HEAD_DIM, _FEED_FORWARD = 320, 5, 64, 64
_CERTAIN = 10.0


def byte_letters() -> list[str]:
    """The printable letter that byte-level BPE writes for each of the 256 bytes (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [shifted.get(byte, chr(byte)) for byte in range(256)]


def _vocabulary(answer: str) -> tuple[list[str], list[TokenType]]:
    letters = byte_letters()
    words = ["".join(letters[byte] for byte in word.encode()) for word in (*THOUGHT, answer)]
    controls, marks = [END, START, USER, ASSISTANT], ["<think>", "</think>"]
    kinds = [TokenType.NORMAL] * (len(letters) + len(words))
    kinds += [TokenType.CONTROL] * len(controls) + [TokenType.USER_DEFINED] * len(marks)
    return [*letters, *words, *controls, *marks], kinds


def _next_tokens(tokens: list[str]) -> npt.NDArray[np.float32]:
    """Row: next token, column: this token."""
    table = np.zeros((len(tokens), _WIDTH), np.float32)
    first_word = 256
    thought = list(range(first_word, first_word + len(THOUGHT)))
    answer = thought[-1] + 1
    chain = [tokens.index("<think>"), *thought, tokens.index("</think>"), answer]
    following = dict.fromkeys(range(len(tokens)), chain[0])
    following |= dict(pairwise([*chain, tokens.index(END)]))
    # With thinking off the template ends in `</think>` and an empty line.
    following[tokens.index(byte_letters()[ord("\n")])] = answer
    for this, following_token in following.items():
        table[following_token, this] = _CERTAIN
    return table


def write(
    path: Path, name: str, shape: str, *, answer: str = ANSWER, payload_bytes: int = 0
) -> None:
    """Write the model file; same arguments, same bytes.

    `shape` names the true shape that simulated GPUs report (lab.engine.shapes), `payload_bytes`
    are appended to make pulls as slow as a test needs. `answer` is one word of any letters.
    """
    tokens, kinds = _vocabulary(answer)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name(name)
    writer.add_string("r1lab.shape", shape)
    writer.add_block_count(1)
    writer.add_context_length(CONTEXT_MAX)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e4)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # llama.cpp wants one merge at least: of two control bytes, which no prompt holds.
    writer.add_token_merges([" ".join(tokens[:2])])
    writer.add_bos_token_id(tokens.index(START))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_add_bos_token(False)

    def zeros(name: str, *shape: int) -> None:
        writer.add_tensor(name, np.zeros(shape, np.float32))

    writer.add_tensor("token_embd.weight", np.eye(len(tokens), _WIDTH, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, np.float32))
    writer.add_tensor("output.weight", _next_tokens(tokens))
    for norm in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{norm}.weight", np.ones(_WIDTH, np.float32))
    query = _HEADS * _HEAD_DIM
    for part, length in (("attn_q", query), ("attn_k", _HEAD_DIM), ("attn_v", _HEAD_DIM)):
        zeros(f"blk.0.{part}.weight", length, _WIDTH)
        zeros(f"blk.0.{part}.bias", length)
    zeros("blk.0.attn_output.weight", _WIDTH, query)
    zeros("blk.0.ffn_gate.weight", _FEED_FORWARD, _WIDTH)
    zeros("blk.0.ffn_up.weight", _FEED_FORWARD, _WIDTH)
    zeros("blk.0.ffn_down.weight", _WIDTH, _FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with path.open("ab") as file:
        file.write(hashlib.shake_256(name.encode()).digest(payload_bytes))
