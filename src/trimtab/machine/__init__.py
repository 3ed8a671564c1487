"""What this machine is and can do: probes, quiet, reports, and the benchmarks that write them."""
