"""Programs and modules that a benchmark compares with and that have to be compiled first."""
