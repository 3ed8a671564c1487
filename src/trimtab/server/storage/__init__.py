"""What outlives the process: files, batches, kept responses."""
