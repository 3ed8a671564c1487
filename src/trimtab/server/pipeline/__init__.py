"""Vision pipelines: stages described in YAML, served behind the gate and limits of a language model.

Nothing in this folder is imported by a server of a language model. ONNX Runtime executes the networks; what
is here is what surrounds them: decoding, layout, batching, hand-over and the account of where the time went
(arXiv 2403.12981).
"""
