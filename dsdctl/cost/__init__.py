"""What work costs: the ledger of PFLOPs, MACs, rates, remaining work, hours and disk."""
