# Asks the host's own llama-server how much memory a model would take: its head is on stdin, base64.
# Variables: LIB (lib/ollama of the engine), VARIANTS (folders with GPU libraries, best first),
# SIZE (bytes of the whole file), WORK (a folder to make), ARGS (of llama-server, no blanks within
# one). Prints the line with the projection; nothing is loaded, the server is ended at that line.
set -eu
rm -rf "$WORK"
install -d -m 755 "$WORK"
pid= watch=
trap 'kill -9 $pid $watch 2>/dev/null || :; rm -rf "$WORK"' EXIT
trap 'exit 1' HUP INT TERM
base64 -d >"$WORK/head.gguf"
truncate -s "$SIZE" "$WORK/head.gguf"
# As Ollama sets them (llm/llama_server.go): its own folder first, then that of the GPU libraries.
LD_LIBRARY_PATH=$LIB
for variant in $VARIANTS; do
  for backend in "$LIB/$variant"/libggml-*.so*; do
    case $backend in */libggml-base* | */libggml-cpu*) continue ;; esac
    [ -e "$backend" ] || continue
    LD_LIBRARY_PATH=$LIB:$LIB/$variant GGML_BACKEND_PATH=$backend
    export GGML_BACKEND_PATH
    break 2
  done
done
export LD_LIBRARY_PATH
mkfifo "$WORK/log"
"$LIB/llama-server" --model "$WORK/head.gguf" $ARGS >"$WORK/log" 2>&1 </dev/null &
pid=$!
(sleep 60; kill -9 $pid) >/dev/null 2>&1 </dev/null &
watch=$!
last=
while read -r line; do
  case $line in
    *"projected to use"*) echo "$line"; exit 0 ;;
    common_fit_params:*) break ;;
    *error* | *failed*) last=$line ;;
  esac
done <"$WORK/log"
echo "${last:-it ended without a projection}" >&2
exit 1
