"""What a system costs - parameters, positions, FLOPs, cache, training memory - from its declaration alone."""

from omniform.cost.flops import decode_flops, kv_cache_bytes, positions, prefill_flops
from omniform.cost.memory import AUTOCAST, FLOAT32, Precision, TrainingMemory, training_memory
from omniform.cost.parameters import learning, parameters
from omniform.cost.report import Cost, cost

__all__ = [
    "AUTOCAST", "FLOAT32", "Cost", "Precision", "TrainingMemory", "cost", "decode_flops", "kv_cache_bytes", "learning",
    "parameters", "positions", "prefill_flops", "training_memory",
]  # fmt: skip
