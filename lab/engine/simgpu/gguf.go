package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"
)

// Value types of GGUF metadata (docs/gguf.md): sizes of the fixed ones, then the two others.
var fixedSize = map[uint32]int{0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

const (
	typeString = 8
	typeArray  = 9
)

// metadata is the scalar metadata of a GGUF file, as text. Arrays are left out.
type metadata map[string]string

func (m metadata) number(key string) uint64 {
	value, _ := strconv.ParseUint(m[m["general.architecture"]+"."+key], 10, 64)
	return value
}

func readMetadata(path string) (metadata, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	reader := &ggufReader{in: bufio.NewReaderSize(file, 1<<20)}
	if string(reader.bytes(4)) != "GGUF" {
		return nil, fmt.Errorf("%s is not a GGUF file", path)
	}
	reader.number(4) // version
	reader.number(8) // tensors
	count := reader.number(8)
	values := metadata{}
	for i := uint64(0); i < count && reader.err == nil; i++ {
		key := reader.text()
		if value, scalar := reader.value(uint32(reader.number(4))); scalar {
			values[key] = value
		}
	}
	return values, reader.err
}

type ggufReader struct {
	in  *bufio.Reader
	err error
}

func (r *ggufReader) bytes(count uint64) []byte {
	if r.err != nil || count > 1<<24 {
		r.err = fmt.Errorf("GGUF metadata cannot be read: %w", io.ErrUnexpectedEOF)
		return nil
	}
	data := make([]byte, count)
	_, r.err = io.ReadFull(r.in, data)
	return data
}

func (r *ggufReader) number(size int) uint64 {
	data := make([]byte, 8)
	copy(data, r.bytes(uint64(size)))
	return binary.LittleEndian.Uint64(data)
}

func (r *ggufReader) text() string {
	return string(r.bytes(r.number(8)))
}

func (r *ggufReader) value(kind uint32) (text string, scalar bool) {
	switch size, fixed := fixedSize[kind]; {
	case fixed:
		return strconv.FormatUint(r.number(size), 10), true
	case kind == typeString:
		return r.text(), true
	case kind == typeArray:
		element, count := uint32(r.number(4)), r.number(8)
		for i := uint64(0); i < count && r.err == nil; i++ {
			r.value(element)
		}
	default:
		r.err = fmt.Errorf("unknown GGUF value type %d", kind)
	}
	return "", false
}
