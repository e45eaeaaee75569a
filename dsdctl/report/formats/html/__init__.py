"""One self-contained page of HTML."""
