package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	oracleTimeout = 30 * time.Second
	pollInterval  = 5 * time.Millisecond
)

// memory is what one device (or the host) holds of a model, in MiB.
type memory struct {
	model, context, compute uint64
}

func (m memory) total() uint64 {
	return m.model + m.context + m.compute
}

// projection is llama.cpp's own placement of a model.
type projection struct {
	devices   []memory
	host      memory
	offloaded uint64   // layers on the devices, the output layer counted
	split     []uint64 // layers of each device; empty when nothing had to be changed
	log       []string
}

var (
	deviceRow = regexp.MustCompile(`- RPC(\d+) .*\(\s*\d+ =\s*(\d+) \+\s*(\d+) \+\s*(\d+)\)`)
	// Weights that the CPU repacks have a row of their own.
	hostRow   = regexp.MustCompile(`- (?:Host|CPU_\w+) +\|\s+\d+ =\s*(\d+) \+\s*(\d+) \+\s*(\d+)`)
	layersRow = regexp.MustCompile(`- RPC(\d+) .*:\s+(\d+) layers,`)
	rpcName   = regexp.MustCompile(`RPC(\d+) \([^)]*\)`)
)

// project asks llama.cpp how it would place the model on the cards. It reads shapes only.
func project(model trueModel, cards []card, args []string) (projection, error) {
	ctx, cancel := context.WithTimeout(context.Background(), oracleTimeout)
	defer cancel()
	port, err := freePort()
	if err != nil {
		return projection{}, err
	}
	args = append(without(args, "--model", "--port"), "--model", model.path, "--port", port,
		"--fit", "on")
	first, err := fit(ctx, args, cards)
	if err != nil || len(first.split) == 0 {
		first.offloaded = offloadedLayers(model, args, len(cards))
		return first, err
	}
	// It does not fit: ask for the figures of the split that the first run arrived at.
	var layers uint64
	var split []string
	for _, count := range first.split {
		layers += count
		split = append(split, strconv.FormatUint(count, 10))
	}
	args = append(args, "-ngl", strconv.FormatUint(layers, 10))
	if len(split) > 1 && layers > 0 {
		args = append(args, "-ts", strings.Join(split, ","))
	}
	second, err := fit(ctx, args, cards)
	second.offloaded, second.log = layers, first.log
	return second, err
}

func offloadedLayers(model trueModel, args []string, cards int) uint64 {
	if cards == 0 {
		return 0
	}
	if given, err := strconv.ParseUint(valueOf(args, "-ngl"), 10, 64); err == nil {
		return min(given, model.layers+1)
	}
	return model.layers + 1
}

// fit starts llama-server, reads its projection and ends it before it loads anything. The device
// servers are its own: one that lost its client in mid-word may end.
func fit(ctx context.Context, args []string, cards []card) (projection, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result := projection{devices: make([]memory, len(cards))}
	var servers []string
	for _, c := range cards {
		address, err := startDevice(ctx, c)
		if err != nil {
			return result, err
		}
		servers = append(servers, address)
	}
	if len(servers) > 0 {
		args = append(args, "--rpc", strings.Join(servers, ","))
	}
	server := command(ctx, "llama-server", args...)
	output, err := server.StderrPipe()
	if err != nil {
		return result, err
	}
	if err := server.Start(); err != nil {
		return result, err
	}
	defer server.Wait()
	defer server.Process.Kill()
	split, projected, lines := make([]uint64, len(cards)), false, bufio.NewScanner(output)
	for lines.Scan() {
		line := lines.Text()
		numbers := numbersOf(line)
		switch {
		case strings.HasPrefix(line, "common_fit_params: "):
			if !projected {
				return result, errors.New("llama.cpp gave no projection: " + line)
			}
			return result, nil
		case strings.Contains(line, "projected to use"):
			projected = true
		case !projected && len(numbers.device) > 0:
			result.devices[numbers.device[0]] = memory{
				numbers.device[1], numbers.device[2], numbers.device[3]}
		case !projected && len(numbers.host) > 0:
			result.host.model += numbers.host[0]
			result.host.context += numbers.host[1]
			result.host.compute += numbers.host[2]
		case len(numbers.layers) > 0:
			split[numbers.layers[0]] = numbers.layers[1]
			result.split = split
		}
		if strings.HasPrefix(line, "common_params_fit_impl: ") {
			result.log = append(result.log, line)
		}
	}
	return result, errors.New("llama-server ended before its projection")
}

type rowNumbers struct{ device, host, layers []uint64 }

func numbersOf(line string) rowNumbers {
	groups := func(row *regexp.Regexp) (numbers []uint64) {
		match := row.FindStringSubmatch(line)
		for i := 1; i < len(match); i++ {
			number, _ := strconv.ParseUint(match[i], 10, 64)
			numbers = append(numbers, number)
		}
		return numbers
	}
	return rowNumbers{groups(deviceRow), groups(hostRow), groups(layersRow)}
}

// startDevice starts a server of llama.cpp that stands for a card, and returns its address.
func startDevice(ctx context.Context, c card) (string, error) {
	port, err := freePort()
	if err != nil {
		return "", err
	}
	server := command(ctx, "ggml-rpc-server", "-H", "127.0.0.1", "-p", port)
	server.Env = append(os.Environ(), "LD_PRELOAD="+root(labRoot+"/simgpu/physpages.so"),
		fmt.Sprintf("R1LAB_MEMORY_MIB=%d", c.freeMiB()))
	if err := server.Start(); err != nil {
		return "", err
	}
	go server.Wait()
	address := "127.0.0.1:" + port
	for ctx.Err() == nil {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			connection.Close()
			return address, nil
		}
		time.Sleep(pollInterval)
	}
	return "", fmt.Errorf("the device server of card %d does not answer: %w", c.index, ctx.Err())
}

// command is a helper process that ends with this one.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	process := exec.CommandContext(ctx, root(labRoot+"/simgpu/"+name), args...)
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return process
}

func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	return port, err
}
