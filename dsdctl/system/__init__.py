"""The machine: files, processes and signals, devices and cores, kill points."""
