"""The models of the networks that come with dsdctl, with closed forms; one file per network."""
