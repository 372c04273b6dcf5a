"""What a robot calls: `Policy`, a fine-tuned model that remembers its episode."""

from handloom.train.policy.policy import Chunk, Execution, Policy

__all__ = ["Chunk", "Execution", "Policy"]
