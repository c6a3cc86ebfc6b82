package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// trueModel is what Ollama's scheduler would know of the model that the tiny one stands for.
type trueModel struct {
	path      string
	sizeBytes uint64
	layers    uint64
	vocab     uint64
	kvPerCell uint64 // bytes of f16 KV cache for each cell of context
}

func readTrueModel(path string) (trueModel, error) {
	shape, err := readMetadata(path)
	if err != nil {
		return trueModel{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return trueModel{}, err
	}
	heads := max(shape.number("attention.head_count"), 1)
	headBytes := shape.number("embedding_length") / heads * 2
	return trueModel{
		path:      path,
		sizeBytes: uint64(info.Size()),
		layers:    shape.number("block_count"),
		vocab:     shape.number("vocab_size"),
		kvPerCell: 2 * shape.number("block_count") * shape.number("attention.head_count_kv") * headBytes,
	}, nil
}

// Ollama chose cards and batch size from the size of the tiny file. launch makes the choice again
// by the same rules (ollama server/sched.go, llm/llama_server.go) from the true size. It returns
// the cards to use and the arguments that Ollama would have passed.
func launch(model trueModel, args []string) ([]card, []string) {
	cells, _ := strconv.ParseUint(valueOf(args, "-c"), 10, 64)
	predicted := model.sizeBytes + model.kvPerCell*cells
	cards := visibleCards()
	if valueOf(args, "--split-mode") == "none" {
		if len(cards) > 0 && predicted > cards[0].freeMiB()<<20*80/100 {
			cards = operatorCards()
		}
		args = without(args, "--split-mode", "--main-gpu")
	}
	var available uint64
	for _, c := range cards {
		available += c.freeMiB() << 20
	}
	passed, _ := strconv.ParseUint(valueOf(args, "-b"), 10, 64)
	if passed == batchForContext(cells) && valueOf(args, "--flash-attn") != "off" {
		batch := strconv.FormatUint(automaticBatch(cells, predicted, available), 10)
		args = append(without(args, "-b", "-ub"), "-b", batch, "-ub", batch)
	}
	return cards, args
}

// operatorCards returns the cards that Ollama itself was given: for one model it narrows
// CUDA_VISIBLE_DEVICES to the card of its choice.
func operatorCards() []card {
	block, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid()))
	list, set := environment(strings.Split(string(block), "\x00"), "CUDA_VISIBLE_DEVICES")
	return selectCards(hostCards(), list, set)
}

func batchForContext(cells uint64) uint64 {
	switch {
	case cells > 32768:
		return 2048
	case cells > 4096:
		return 1024
	}
	return 512
}

func automaticBatch(cells, predicted, available uint64) uint64 {
	batch := batchForContext(cells)
	for batch > 512 && !batchFits(batch, predicted, available) {
		batch /= 2
	}
	return batch
}

func batchFits(batch, predicted, available uint64) bool {
	headroom, surcharge := uint64(75), uint64(768<<20)
	if batch >= 2048 {
		headroom, surcharge = 60, 2<<30
	}
	threshold := available * 80 / 100
	return available == 0 ||
		predicted <= available*headroom/100 && predicted+surcharge <= threshold
}
