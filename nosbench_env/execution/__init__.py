"""Execution: programs run as optimizers.

========================================  =========================  ==============================================
class (module)                            runs                       for; chosen when
========================================  =========================  ==============================================
`ProgramOptimizer` (`optimizer`)          torch, operation by        users; the definition, for any parameters
                                          operation
`FusedCpuProgram` (`fused_cpu`)           LLVM loops on the CPU      `ProgramOptimizer(fused=True)`; PFN on the CPU
`FusedGpuProgram` (`gpu.fused_gpu`)       kernels on a GPU           `ProgramOptimizer(fused=True)` on a GPU
`GpuPopulation` (`gpu.interpreter`)       kernels, many programs     PFN on a GPU
`UnfusedPopulation`                       torch, many programs       PFN on a GPU that compiles no kernels, and
(`gpu.without_kernels`)                                              programs too large for the kernels
========================================  =========================  ==============================================
"""
