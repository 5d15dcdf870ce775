"""Programs on a GPU.

A step is translated to `bytecode`, which the `interpreter` (compiled by `nvrtc`) runs for one program (`fused_gpu`) or
for a population; `without_kernels` runs populations by torch's operations.
"""
