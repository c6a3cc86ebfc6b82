package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// report replaces what llama.cpp says about the memory of the tiny model by the true model's,
// in the words that a CUDA build uses. The zero value stands for a server without a GPU.
type report struct {
	texts map[string]string // what to say in place of the first line of each kind
}

var bufferLine = regexp.MustCompile(`\s(model|KV|output|compute) buffer size\s*=`)

func newReport(model trueModel, cards []card, args []string, placed projection) *report {
	var intro, loaded, cache, compute strings.Builder
	for _, line := range placed.log {
		intro.WriteString(rpcName.ReplaceAllStringFunc(line, func(name string) string {
			index, _ := strconv.Atoi(rpcName.FindStringSubmatch(name)[1])
			return fmt.Sprintf("CUDA%d (%s)", index, cards[index].name)
		}) + "\n")
	}
	host := "CUDA_Host"
	for i, c := range cards {
		fmt.Fprintf(&intro, "llama_prepare_model_devices: using device CUDA%d (%s) (%s) - %d MiB "+
			"free\n", i, c.name, c.bdf, c.freeMiB())
	}
	if len(cards) == 0 {
		host = "CPU"
	} else {
		fmt.Fprintf(&loaded, "load_tensors: offloaded %d/%d layers to GPU\n",
			placed.offloaded, model.layers+1)
	}
	// Not CPU_Mapped: Ollama trims that by the size of the model file, which is the tiny one's.
	buffer(&loaded, "load_tensors", "CPU", "model", float64(placed.host.model))
	buffer(&cache, "llama_kv_cache", "CPU", "KV", float64(placed.host.context))
	for i, device := range placed.devices {
		name := fmt.Sprintf("CUDA%d", i)
		buffer(&loaded, "load_tensors", name, "model", float64(device.model))
		buffer(&cache, "llama_kv_cache", name, "KV", float64(device.context))
		buffer(&compute, "sched_reserve", name, "compute", float64(device.compute))
	}
	buffer(&compute, "sched_reserve", host, "compute", float64(placed.host.compute))

	var output strings.Builder
	slots, _ := strconv.ParseUint(valueOf(args, "-np"), 10, 64)
	buffer(&output, "llama_context", host, "output", float64(4*slots*model.vocab)/(1<<20))
	return &report{texts: map[string]string{
		"model":   intro.String() + loaded.String(),
		"KV":      cache.String(),
		"output":  output.String(),
		"compute": compute.String(),
	}}
}

func buffer(text *strings.Builder, component, device, kind string, mib float64) {
	if mib > 0 {
		fmt.Fprintf(text, "%s: %10s %s buffer size = %8.2f MiB\n", component, device, kind, mib)
	}
}

// rewrite returns what to print for a line of the real server.
func (r *report) rewrite(line string) string {
	// A build with RPC speaks of offloading even where there is no device, and Ollama would
	// believe it.
	if strings.HasPrefix(line, "load_tensors: offload") {
		return ""
	}
	match := bufferLine.FindStringSubmatch(line)
	if match == nil || r.texts == nil {
		return line
	}
	text := r.texts[match[1]]
	r.texts[match[1]] = ""
	return text
}
