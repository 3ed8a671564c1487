"""How long a matrix product takes here: measured, learned, predicted.

`collect` times products, `features` describes them, `model` learns how far each stays from its roofline, and
`choice` uses that to pick how the kernels cut their work. Nothing here knows a model or a file format.
"""
