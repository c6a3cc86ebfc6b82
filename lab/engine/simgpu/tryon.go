package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
)

var deviceName = regexp.MustCompile(`RPC(\d+)`)

// tryOut runs llama.cpp on the simulated cards with a model that is not the lab's own, as one whose
// weights are not there yet, and passes on what it says. It returns its exit code.
func tryOut(args []string, cards []card) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var servers []string
	for _, c := range cards {
		address, err := startDevice(ctx, c)
		if err != nil {
			fail(err)
		}
		servers = append(servers, address)
	}
	args = append(without(args, "--split-mode", "--main-gpu"), "--rpc", strings.Join(servers, ","))
	server := command(ctx, "llama-server", args...)
	output, err := server.StderrPipe()
	if err != nil {
		fail(err)
	}
	if err := server.Start(); err != nil {
		fail(err)
	}
	copyRenamed(os.Stderr, output)
	if err := server.Wait(); err != nil {
		if ended, isExit := err.(*exec.ExitError); isExit {
			return max(ended.ExitCode(), 1)
		}
		return 1
	}
	return 0
}

// copyRenamed passes lines on with the devices called as a CUDA build calls them.
func copyRenamed(out io.Writer, in io.Reader) {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		text := deviceName.ReplaceAllString(lines.Text(), "CUDA$1")
		fmt.Fprintln(out, text)
	}
}
