module simgpu

go 1.24
