"""Checkpoint files: tensors and metadata out of GGUF and safetensors, and the cache of pulled models."""
