// A llama-server with simulated GPUs: the real one runs beneath it on the CPU, and what it says
// about memory is replaced by llama.cpp's own projection for the true model on simulated cards.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Where the lab binds the host's hardware, the shapes and llama.cpp with RPC devices.
const labRoot = "/usr/lib/r1lab"

// root is "/" on a host; R1LAB_ROOT moves /usr/lib/r1lab, /sys and /dev for tests.
func root(path string) string {
	return filepath.Join("/", os.Getenv("R1LAB_ROOT"), path)
}

// realServer is llama.cpp's own llama-server: its process keeps that name.
func realServer() string {
	self, err := os.Executable()
	if err != nil {
		fail(err)
	}
	return filepath.Join(filepath.Dir(self), "cpu", "llama-server")
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "llama-server (simulated GPUs):", err)
	os.Exit(1)
}

func main() {
	args := os.Args[1:]
	switch {
	case slices.Contains(args, "--list-devices"):
		listDevices(visibleCards())
	case valueOf(args, "--model") != "":
		os.Exit(serve(args))
	case slices.Contains(args, "--port"):
		discover(visibleCards())
	default:
		server := realServer()
		fail(syscall.Exec(server, append([]string{server}, args...), os.Environ()))
	}
}

// listDevices prints what Ollama reads from stdout.
func listDevices(cards []card) {
	fmt.Println("Available devices:")
	for i, c := range cards {
		fmt.Printf("  CUDA%d: %s (%d MiB, %d MiB free)\n", i, c.name, c.memoryMiB, c.freeMiB())
	}
}

// discover prints what Ollama reads when it starts a server without a model, and waits to be
// killed.
func discover(cards []card) {
	var total uint64
	for _, c := range cards {
		total += c.memoryMiB
	}
	var archs string
	if len(cards) > 0 {
		fmt.Fprintf(os.Stderr, "ggml_cuda_init: found %d CUDA devices (Total VRAM: %d MiB):\n",
			len(cards), total)
		archs = "CUDA : ARCHS = " + cudaArchs + " | USE_GRAPHS = 1 | "
	}
	for i, c := range cards {
		fmt.Fprintf(os.Stderr, "  Device %d: %s, compute capability %s, VMM: yes, VRAM: %d MiB\n",
			i, c.name, c.capability, c.memoryMiB)
	}
	fmt.Fprintf(os.Stderr, "system_info: n_threads = 1 | %sCPU : SSE3 = 1 |\n", archs)
	dieWithParent()
	select {}
}

// dieWithParent asks the kernel to end this process when the one that started it ends.
func dieWithParent() {
	const prSetPdeathsig = 1
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetPdeathsig, uintptr(syscall.SIGKILL), 0)
}

// valueOf returns the value of an option given as two arguments, or "".
func valueOf(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// without returns the arguments less some options and their values.
func without(args []string, names ...string) []string {
	var kept []string
	for i := 0; i < len(args); i++ {
		if slices.Contains(names, args[i]) {
			i++
			continue
		}
		kept = append(kept, args[i])
	}
	return kept
}

// environment returns a variable of an environment block ("A=1", "B=2").
func environment(block []string, name string) (string, bool) {
	for _, entry := range block {
		if value, found := strings.CutPrefix(entry, name+"="); found {
			return value, true
		}
	}
	return "", false
}
