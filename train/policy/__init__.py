"""`Policy`: a fine-tuned model that remembers its episode, for a robot to call."""

from handloom.train.policy.policy import Chunk, Execution, Policy

__all__ = ["Chunk", "Execution", "Policy"]
