"""What a spec may say of each network that comes with dsdctl, and its closed forms; a file each."""
