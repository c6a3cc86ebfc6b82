package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
)

// serve runs a model and returns the exit code of the real server.
func serve(args []string) int {
	// The kernel ends children when the thread that started them ends: stay on it.
	runtime.LockOSThread()
	// The model answers from the CPU, where these have no meaning.
	plain := without(args, "--split-mode", "--main-gpu", "-ngl")
	tiny, err := readMetadata(valueOf(args, "--model"))
	if cards := visibleCards(); err == nil && tiny["r1lab.shape"] == "" && len(cards) > 0 {
		return tryOut(args, cards)
	}
	shape := root(labRoot + "/shapes/" + tiny["r1lab.shape"] + ".gguf")
	if _, missing := os.Stat(shape); err != nil || tiny["r1lab.shape"] == "" || missing != nil {
		return run(plain, os.Stderr, "", &report{})
	}
	model, err := readTrueModel(shape)
	if err != nil {
		fail(err)
	}
	cards, args := launch(model, args)
	placed, err := project(model, cards, args)
	if err != nil {
		fail(err)
	}
	var used []string
	for i, c := range cards {
		held := placed.devices[i].total()
		if held > c.freeMiB() {
			fmt.Fprintf(os.Stderr, "ggml_backend_cuda_buffer_type_alloc_buffer: allocating %d.00 "+
				"MiB on device %d: cudaMalloc failed: out of memory\n", held, i)
			return 1
		}
		if held > 0 {
			used = append(used, fmt.Sprintf("%d=%d", c.index, held+cudaContextMiB))
		}
	}
	report := newReport(model, cards, args, placed)
	return run(append(plain, "--fit", "off"), os.Stderr, strings.Join(used, ","), report)
}

// run starts the real server on the CPU and passes its output and signals on. vram is what a
// simulated nvidia-smi shows of it: card index = MiB, comma separated.
func run(args []string, out io.Writer, vram string, report *report) int {
	server := exec.Command(realServer(), args...)
	server.Args[0] = os.Args[0]
	server.Env = append(os.Environ(), "R1LAB_VRAM="+vram)
	server.Stdout = os.Stdout
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := server.StderrPipe()
	if err != nil {
		fail(err)
	}
	if err := server.Start(); err != nil {
		fail(err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		for received := range signals {
			server.Process.Signal(received)
		}
	}()
	copyLines(out, output, report)
	var ended *exec.ExitError
	if err := server.Wait(); errors.As(err, &ended) {
		if status := ended.Sys().(syscall.WaitStatus); status.Signaled() {
			return 128 + int(status.Signal())
		}
		return ended.ExitCode()
	}
	return 0
}

// copyLines writes whole lines: Ollama parses each chunk it reads on its own.
func copyLines(out io.Writer, in io.Reader, report *report) {
	reader := bufio.NewReader(in)
	for {
		line, err := reader.ReadString('\n')
		io.WriteString(out, report.rewrite(line))
		if err != nil {
			return
		}
	}
}
