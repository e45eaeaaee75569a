"""What work costs: PFLOPs, MACs, measured rates, remaining work, hours and disk space."""
