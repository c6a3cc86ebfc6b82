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
		cards = append(cards, card{index, fields[1], fields[2], memory, fields[4], fields[5]})
	}
	return cards
}

func visibleCards() []card {
	list, set := os.LookupEnv("CUDA_VISIBLE_DEVICES")
	return selectCards(hostCards(), list, set)
}

// selectCards applies CUDA_VISIBLE_DEVICES: indices or (beginnings of) UUIDs, in that order, up
// to the first that does not exist.
func selectCards(cards []card, list string, set bool) []card {
	if !set {
		return cards
	}
	var chosen []card
next:
	for _, wanted := range strings.Split(list, ",") {
		wanted = strings.TrimSpace(wanted)
		for i, c := range cards {
			byUUID := strings.HasPrefix(wanted, "GPU-") && strings.HasPrefix(c.uuid, wanted)
			if byUUID || wanted == strconv.Itoa(i) {
				chosen = append(chosen, c)
				continue next
			}
		}
		break
	}
	return chosen
}
