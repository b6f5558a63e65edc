"""What the server decides: check-ins, leases, admission, buffers, steps, publication."""
