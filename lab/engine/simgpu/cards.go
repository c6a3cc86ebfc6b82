package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Compute capabilities of the CUDA libraries in the official archive (cuda_v12 and cuda_v13).
const cudaArchs = "500,520,600,610,700,720,750,800,860,870,890,900,1000,1030,1100,1200,1210"

// What a CUDA context takes of a card before anything is loaded (ollama ml/device.go).
const cudaContextMiB = 457

type card struct {
	index      int
	bdf        string
	name       string
	memoryMiB  uint64
	capability string
	uuid       string
}

func (c card) freeMiB() uint64 {
	return c.memoryMiB - min(c.memoryMiB, cudaContextMiB)
}

// hostCards returns the cards that the simulated driver has brought up: module loaded, device
// nodes there. Without a driver there are none, as on a real host.
func hostCards() []card {
	for _, path := range []string{"/sys/module/nvidia/version", "/dev/nvidia-uvm"} {
		if _, err := os.Stat(root(path)); err != nil {
			return nil
		}
	}
	data, err := os.ReadFile(root(labRoot + "/host/gpus"))
	if err != nil {
		return nil
	}
	var cards []card
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		fields := strings.Split(line, "|")
		if len(fields) < 6 {
			continue
		}
		index, _ := strconv.Atoi(fields[0])
		memory, _ := strconv.ParseUint(fields[3], 10, 64)
		if _, err := os.Stat(root(fmt.Sprintf("/dev/nvidia%d", index))); err != nil {
			continue
		}
		if memory == 0 {
			memory = hostMemoryMiB()
		}
		whole := card{index, fields[1], fields[2], memory, fields[4], fields[5]}
		if len(fields) < 9 || fields[8] == "" {
			cards = append(cards, whole)
			continue
		}
		for _, part := range strings.Split(fields[8], ",") {
			cards = append(cards, whole.instance(part))
		}
	}
	return cards
}

// instance is a part of a card, given as profile=MiB=uuid.
func (c card) instance(part string) card {
	facts := strings.Split(part, "=")
	if len(facts) == 3 {
		c.name += " MIG " + facts[0]
		c.memoryMiB, _ = strconv.ParseUint(facts[1], 10, 64)
		c.uuid = facts[2]
	}
	return c
}

// hostMemoryMiB is MemTotal, which a card without memory of its own shares.
func hostMemoryMiB() uint64 {
	data, _ := os.ReadFile(root("/proc/meminfo"))
	var kib uint64
	fmt.Sscanf(string(data), "MemTotal: %d kB", &kib)
	return kib / 1024
}

func visibleCards() []card {
	list, set := os.LookupEnv("CUDA_VISIBLE_DEVICES")
	return selectCards(hostCards(), list, set)
}

// selectCards applies CUDA_VISIBLE_DEVICES: indices or (beginnings of) UUIDs, in that order, up
// to the first that does not exist.
func selectCards(cards []card, list string, set bool) []card {
	if !set {
		// CUDA shows one instance of a divided card, and nothing beside it.
		for i, c := range cards {
			if strings.HasPrefix(c.uuid, "MIG-") {
				return cards[i : i+1]
			}
		}
		return cards
	}
	var chosen []card
next:
	for _, wanted := range strings.Split(list, ",") {
		wanted = strings.TrimSpace(wanted)
		for i, c := range cards {
			isUUID := strings.HasPrefix(wanted, "GPU-") || strings.HasPrefix(wanted, "MIG-")
			byUUID := isUUID && strings.HasPrefix(c.uuid, wanted)
			if byUUID || wanted == strconv.Itoa(i) {
				chosen = append(chosen, c)
				continue next
			}
		}
		break
	}
	return chosen
}
