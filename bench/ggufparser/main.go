// Prints what gguf-parser-go says a model takes of one GPU that holds all of it, in MiB, without
// the platform's footprint: a line "FILE CONTEXT PARALLEL BATCH CACHE_TYPE" in, a number out.
package main

import (
	"fmt"
	"os"

	parser "github.com/gpustack/gguf-parser-go"
)

var cacheTypes = map[string]parser.GGMLType{
	"f16": parser.GGMLTypeF16, "q8_0": parser.GGMLTypeQ8_0, "q4_0": parser.GGMLTypeQ4_0,
}

func main() {
	files := map[string]*parser.GGUFFile{}
	var path, cache string
	var context, parallel, batch int32
	for {
		if n, _ := fmt.Scan(&path, &context, &parallel, &batch, &cache); n != 5 {
			return
		}
		if files[path] == nil {
			file, err := parser.ParseGGUFFile(path)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			files[path] = file
		}
		run := files[path].EstimateLLaMACppRun(
			parser.WithFlashAttention(),
			parser.WithLLaMACppContextSize(context),
			parser.WithParallelSize(parallel),
			parser.WithLLaMACppLogicalBatchSize(batch),
			parser.WithLLaMACppPhysicalBatchSize(batch),
			parser.WithLLaMACppCacheKeyType(cacheTypes[cache]),
			parser.WithLLaMACppCacheValueType(cacheTypes[cache]),
		)
		gpu := run.Devices[1]
		bytes := gpu.Weight.Sum() + gpu.KVCache.Sum() + gpu.Computation.Sum()
		fmt.Printf("%.1f\n", float64(bytes)/(1<<20))
	}
}
